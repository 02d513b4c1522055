"""The gateway's own pages, and who gets to them."""
