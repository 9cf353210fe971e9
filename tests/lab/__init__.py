"""Forwarding in the kernel between hosts of one's own, to look at or to check: `make lab`. See `__main__.py`."""
