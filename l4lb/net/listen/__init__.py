"""Listening sockets: opened, shared, passed to another process; the files of unix sockets."""
