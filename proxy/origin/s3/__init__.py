"""S3 origins: AWS, and whatever speaks its HTTP API (MinIO, Ceph, R2, GCS's XML API, moto, rclone).

Knows S3's names, signatures, headers, errors and redirects. `origin` is the Origin contract; `target` and `signing`
say what goes into a request, `headers`, `answers` and `errors` judge what comes back, `redirects` follows it
elsewhere, `parts` finds a multipart object's parts, `forward` passes other operations on.
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
