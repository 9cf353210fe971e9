"""Where lines go, without blocking anybody: files, pipes, syslog."""
