"""Virtual addresses that other daemons move: whether this node should have them, and how those daemons are told."""
