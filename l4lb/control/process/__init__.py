"""The process around the control plane: its user, its service manager, its successor."""
