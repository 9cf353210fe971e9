"""nginx.conf: words and blocks, files that it includes, and what l4lb has for the section stream."""
