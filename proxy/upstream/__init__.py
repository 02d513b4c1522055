"""How an origin is asked: delivery, retries, hedges, speculative reads, and the pace that it takes."""
