"""Origins: what is asked of them, and how their answers, right or wrong, are taken."""
