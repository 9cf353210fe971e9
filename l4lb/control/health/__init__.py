"""Health checks: when to check, what a check is, and when its results change a backend's health."""
