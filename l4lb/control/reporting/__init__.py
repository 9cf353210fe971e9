"""What leaves the process: metrics, access log, StatsD, and the log lines that sum up."""
