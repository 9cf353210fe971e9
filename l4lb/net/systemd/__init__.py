"""The service manager: what it passed to this process, what it is told, what it keeps for the next one."""
