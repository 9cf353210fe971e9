"""From the state to snapshots: who is usable, with which weight and table."""
