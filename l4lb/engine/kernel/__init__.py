"""Forwarding in the kernel, by programs that see packets before the stack does: the same snapshots, no session ends
here. The programs are in l4lb/_kernel."""
