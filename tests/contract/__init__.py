"""One suite over every kind of origin: what `proxy.origin` promises, kept by real servers and a real directory."""
