"""Requests to an origin: delivery, retries, hedges, speculative reads, and the rate at which they are made."""
