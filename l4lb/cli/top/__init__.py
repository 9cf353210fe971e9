"""``l4lb top``: a running instance, live in the terminal. `state/` is what is seen and where the user is in it,
`panes/` what is shown of it, both pure; the modules here ask the instance, take keys and draw."""
