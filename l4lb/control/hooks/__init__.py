"""Hooks: an operator's code that is asked about sessions, on threads of its own."""
