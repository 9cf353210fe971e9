"""Sessions that are there now: listed, ended, drained."""
