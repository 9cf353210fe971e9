"""Health checks: how each type of check asks a backend."""
