"""From text, or command-line flags, to options; or to every problem at once."""
