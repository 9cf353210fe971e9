"""Programs for the kernel, as their sources and, once built, as object files; see `l4lb.engine.kernel`."""
