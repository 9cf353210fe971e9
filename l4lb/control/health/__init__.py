"""Health: which targets to check and when, and the consequences. How each check works is in `l4lb.control.checks`."""
