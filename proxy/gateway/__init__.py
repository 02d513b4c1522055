"""The use-cases: what a client may ask of this node, in the engine's own words.

Knows names, versions, conditions, ranges, pieces; introduces the store to fills and origins. Knows no dialect and
no socket; headers of passed-through requests are pairs that it does not interpret, but for their length and ETag.
"""
