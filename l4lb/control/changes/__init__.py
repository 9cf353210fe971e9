"""Changes of what is wanted: planned, checked, saved, applied."""
