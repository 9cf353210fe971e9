"""The desired state, the observed state, and events."""
