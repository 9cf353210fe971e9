"""Current sessions: listed, ended, drained."""
