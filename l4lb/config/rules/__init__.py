"""What must hold between options: each rule yields where it is broken, and how."""
