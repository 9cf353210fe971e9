"""From the state to snapshots: which backends are usable, with which weights and tables."""
