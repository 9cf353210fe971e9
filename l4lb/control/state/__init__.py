"""What is wanted, what was observed, and the events that say so."""
