"""What a conversion builds: a configuration, with the lines that its options come from and reasons, and its text."""
