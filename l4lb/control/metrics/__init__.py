"""What is counted, for monitoring systems: gathered at the moment of asking, counted nowhere twice."""
