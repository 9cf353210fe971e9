"""Reports: metrics, access log, StatsD, and summary lines in the log."""
