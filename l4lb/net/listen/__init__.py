"""Listening sockets: opened, shared, handed on; the files of unix sockets."""
