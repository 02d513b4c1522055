"""What one dialect stored, another reads: the same bytes, each in its own words, one cached copy."""
