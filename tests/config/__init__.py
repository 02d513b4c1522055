"""The settings: what is accepted, what is refused and how, where values come from."""
