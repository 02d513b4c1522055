"""The S3 surface: requests in, the engine's answers out as S3 says them.

Knows S3's names, headers, XML and errors; knows no disk and no origin's address.
"""
