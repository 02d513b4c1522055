"""The ways that bytes leave this process: our uvicorn protocol, sendfile, and the ASGI response made of pieces.

Knows sockets and pieces; knows no S3 and no cache.
"""
