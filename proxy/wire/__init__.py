"""The bulk range client: HTTP/1.1 over plain TCP or TLS, made for block bytes. Serves origins (and later peers).

Knows connections, heads and bodies; knows nothing of S3, retries or blocks.
"""
