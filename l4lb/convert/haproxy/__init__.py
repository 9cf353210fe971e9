"""haproxy.cfg: words, conditional blocks, sections, and what l4lb has for them."""
