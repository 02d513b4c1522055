"""The measurements' own parts: what they read from their tools, and that nothing they start outlives them."""
