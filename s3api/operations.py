"""S3's operations by name: which method and sub-resource is which, and what each writes. Pure.

Names serve the metrics and the messages; what an operation writes decides whom a write invalidates. A sub-resource
that is not in these tables still passes through, as the nearest general operation.
Source: Amazon S3 API Reference, "Actions".
"""

from __future__ import annotations

from collections.abc import Set

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = READ_METHODS | {"PUT", "POST", "DELETE"}  # all others are refused before anything is signed or sent on
_VERBS = {"GET": "Get", "PUT": "Put", "DELETE": "Delete", "HEAD": "Head", "POST": "Post"}
_OBJECT_NOUNS = {
    "acl": "Acl",
    "attributes": "Attributes",
    "legal-hold": "LegalHold",
    "retention": "Retention",
    "tagging": "Tagging",
    "torrent": "Torrent",
}
_BUCKET_NOUNS = {
    "accelerate": "AccelerateConfiguration",
    "acl": "Acl",
    "analytics": "AnalyticsConfiguration",
    "cors": "Cors",
    "encryption": "Encryption",
    "intelligent-tiering": "IntelligentTieringConfiguration",
    "inventory": "InventoryConfiguration",
    "lifecycle": "LifecycleConfiguration",
    "location": "Location",
    "logging": "Logging",
    "metrics": "MetricsConfiguration",
    "notification": "NotificationConfiguration",
    "object-lock": "ObjectLockConfiguration",
    "ownershipControls": "OwnershipControls",
    "policy": "Policy",
    "policyStatus": "PolicyStatus",
    "publicAccessBlock": "PublicAccessBlock",
    "replication": "Replication",
    "requestPayment": "RequestPayment",
    "tagging": "Tagging",
    "versioning": "Versioning",
    "website": "Website",
}
_OBJECT_OPERATIONS = {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
_BUCKET_OPERATIONS = {"HEAD": "HeadBucket", "PUT": "CreateBucket", "DELETE": "DeleteBucket", "POST": "PostObject"}


def name_service_operation(method: str) -> str:
    return "ListBuckets" if method in ("GET", "HEAD") else "Other"


def name_bucket_operation(method: str, parameters: Set[str]) -> str:
    """`parameters` are the query's names, without signature."""
    if method == "POST" and "delete" in parameters:
        return "DeleteObjects"
    for noun in _BUCKET_NOUNS:
        if noun in parameters and method in _VERBS:
            return f"{_VERBS[method]}Bucket{_BUCKET_NOUNS[noun]}"
    if method == "GET":
        if "versions" in parameters:
            return "ListObjectVersions"
        if "uploads" in parameters:
            return "ListMultipartUploads"
        return "ListObjectsV2" if "list-type" in parameters else "ListObjects"
    return _BUCKET_OPERATIONS.get(method, "Other")


def name_object_operation(method: str, parameters: Set[str], *, copies: bool = False, selects: bool = False) -> str:
    """`copies`: the request names a copy source. `selects`: its query is that of SelectObjectContent, and no more."""
    if "uploadId" in parameters:
        part = "UploadPartCopy" if copies else "UploadPart"
        named = {"GET": "ListParts", "PUT": part, "DELETE": "AbortMultipartUpload", "POST": "CompleteMultipartUpload"}
        return named.get(method, "Other")
    if method == "POST":
        if selects:
            return "SelectObjectContent"
        named = {"uploads": "CreateMultipartUpload", "restore": "RestoreObject"}
        return next((name for parameter, name in named.items() if parameter in parameters), "Other")
    for noun in _OBJECT_NOUNS:
        if noun in parameters and method in _VERBS:
            return f"{_VERBS[method]}Object{_OBJECT_NOUNS[noun]}"
    if method == "PUT" and copies:
        return "CopyObject"
    return _OBJECT_OPERATIONS.get(method, "Other")


def mutates(method: str, operation: str) -> bool:
    """Whether an operation may change anything at the origin; what is not known to be a read may."""
    return method not in READ_METHODS and operation != "SelectObjectContent"


def writes_key(method: str, operation: str) -> bool:
    """Whether the object that the path names may be another afterwards, or have other headers.

    Parts become visible only by CompleteMultipartUpload.
    """
    hidden = ("UploadPart", "UploadPartCopy", "AbortMultipartUpload", "CreateMultipartUpload")
    return mutates(method, operation) and operation not in hidden
