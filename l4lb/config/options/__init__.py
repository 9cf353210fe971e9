"""Every option once: name, type, default, meaning. One that is wrong by itself is refused here."""
