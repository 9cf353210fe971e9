"""Forwarding in the kernel beside l4lb's own proxy and nftables: CPU time, packets alone, publishing."""
