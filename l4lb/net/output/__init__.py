"""Where lines go without anybody waiting for it: files, pipes, syslog."""
