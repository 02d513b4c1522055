"""S3 origins: AWS, and every service with its HTTP API (MinIO, Ceph, R2, GCS's XML API, moto, rclone).

Knows S3's names, signatures, headers, errors and redirects. `origin` is the Origin contract. `target` and `signing`
build requests; `headers`, `answers` and `errors` check the responses; `redirects` follows them to another endpoint;
`parts` finds the parts of a multipart object; `forward` passes other operations through.
"""

from proxy.origin.s3.credentials import ChainCredentials, CredentialSource, FixedCredentials
from proxy.origin.s3.origin import S3Origin, S3Settings
from proxy.origin.s3.signing import Credentials

__all__ = [
    "ChainCredentials",
    "CredentialSource",
    "Credentials",
    "FixedCredentials",
    "S3Origin",
    "S3Settings",
]
