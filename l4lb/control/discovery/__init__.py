"""Where the backends of a pool come from, besides those that its configuration names."""
