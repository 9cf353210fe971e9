"""Health: when to check whom, and what follows from it. How a check asks is in `l4lb.control.checks`."""
