"""S3's words for GCS's and back: what an S3 client is told of an object there, and how its writes get there. Pure.

How it works. GCS's XML API is built like S3's: the same methods, paths and documents, multipart uploads included; only
headers and a few parameters have other names. So an S3 client's write is renamed, sent on, and its answer renamed. What
GCS has no word for is refused with NotImplemented and its name, never dropped: a client that asked for a lock, tags or
a key of its own must not believe that it got them. Dropped are only words about the transfer (SDK bookkeeping,
checksums that GCS doesn't know: they are checked on the way) and wishes that GCS fulfils anyhow (encryption at rest,
the private default).
Source: Cloud Storage documentation, "Simple migration from Amazon S3", "HTTP headers for XML API", "XML API multipart
uploads".
"""

from __future__ import annotations

import re
from dataclasses import replace

from proxy.errors import InvalidRequest, NotSupported
from proxy.http.dialect_headers import AMZ_METADATA, GOOG_METADATA, renamed_to_amz
from s3api.requests import Pass
from s3api.sums import SUMS

Headers = tuple[tuple[str, str], ...]

# What is sent on, renamed. UploadPartCopy is missing: GCS has no copy into a part.
SENT_ON = frozenset(
    {
        "AbortMultipartUpload",
        "CompleteMultipartUpload",
        "CopyObject",
        "CreateMultipartUpload",
        "DeleteObject",
        "ListMultipartUploads",
        "ListParts",
        "PutObject",
        "UploadPart",
    }
)
_PARAMETERS = frozenset(
    {
        "delimiter",
        "encoding-type",
        "key-marker",
        "max-parts",
        "max-uploads",
        "part-number-marker",
        "partNumber",
        "prefix",
        "upload-id-marker",
        "uploadId",
        "uploads",
    }
)
_RENAMED = {
    "x-amz-acl": "x-goog-acl",
    "x-amz-copy-source-if-match": "x-goog-copy-source-if-match",
    "x-amz-copy-source-if-modified-since": "x-goog-copy-source-if-modified-since",
    "x-amz-copy-source-if-none-match": "x-goog-copy-source-if-none-match",
    "x-amz-copy-source-if-unmodified-since": "x-goog-copy-source-if-unmodified-since",
    "x-amz-metadata-directive": "x-goog-metadata-directive",
}
_IDLE = {  # wishes that are the rule at GCS, by the value that says so
    "x-amz-acl": "private",
    "x-amz-checksum-type": "FULL_OBJECT",
    "x-amz-server-side-encryption": "AES256",
    "x-amz-storage-class": "STANDARD",
    "x-amz-tagging-directive": "COPY",
}
_OF_THE_TRANSFER = frozenset(
    {
        "amz-sdk-invocation-id",
        "amz-sdk-request",
        "x-amz-checksum-algorithm",
        "x-amz-decoded-content-length",
        "x-amz-mp-object-size",
        "x-amz-sdk-checksum-algorithm",
        "x-amz-trailer",
        "x-amz-user-agent",
    }
)
_GENERATION = re.compile(r"[0-9]{1,19}")


def answer_headers(headers: Headers) -> Headers:
    """The headers of GCS's answer to a write in S3's words."""
    return tuple(pair for pair in headers if not pair[0].startswith(("x-goog-", "x-guploader-"))) + tuple(
        pair for pair in renamed_to_amz(headers) if pair[0].startswith("x-amz-")
    )


def rename(operation: Pass) -> Pass:
    """The operation as GCS's XML API takes it. Raises NotSupported, naming what GCS has no word for."""
    if operation.operation not in SENT_ON:
        raise NotSupported(f"{operation.operation} is not possible for a bucket at Google Cloud Storage.")
    query = tuple(pair for name, value in operation.query for pair in _rename_parameter(name, value))
    headers = tuple(pair for name, value in operation.headers for pair in _rename_header(name, value))
    names = "parts" if operation.operation == "CompleteMultipartUpload" else operation.body_names
    return replace(operation, query=query, headers=headers, body_names=names)


def generation_query(version_id: str | None) -> Headers:
    """The parameter that names a version; none for the current one. Raises InvalidRequest."""
    return () if version_id in (None, "", "null") else (("generation", _generation(version_id or "")),)


def claimed_sums(operation: Pass) -> dict[str, str]:
    """The checksums in the headers of data that goes to GCS, by name."""
    if operation.operation not in ("PutObject", "UploadPart"):
        return {}
    return {name: value for name, value in operation.headers if name in SUMS}


def _rename_parameter(name: str, value: str) -> Headers:
    if name == "x-id":
        return ()
    if name == "versionId":
        return generation_query(value)
    if name not in _PARAMETERS:
        raise _unknown(f"the parameter {name}")
    return ((name, value),)


def _rename_header(name: str, value: str) -> Headers:
    if name.startswith(AMZ_METADATA):
        return ((GOOG_METADATA + name.removeprefix(AMZ_METADATA), value),)
    if name in _OF_THE_TRANSFER or _IDLE.get(name) == value:
        return ()
    if name == "x-amz-copy-source":
        return _rename_source(value)
    if name in _RENAMED:
        return ((_RENAMED[name], value),)
    if name == "x-amz-checksum-crc32c" and re.fullmatch(r"[A-Za-z0-9+/]{6}==", value):
        return (("x-goog-hash", f"crc32c={value}"),)
    if name in SUMS:
        return ()
    if name == "if-none-match" and value.strip() == "*":
        return (("x-goog-if-generation-match", "0"),)
    if name.startswith(("x-amz-", "if-")) or name == "expires":
        raise _unknown(f"the header {name}")
    return ((name, value),)


def _rename_source(value: str) -> Headers:
    source, _, version = value.removeprefix("/").partition("?versionId=")
    if not version or version == "null":
        return (("x-goog-copy-source", source),)
    return (("x-goog-copy-source", source), ("x-goog-copy-source-generation", _generation(version)))


def _generation(version_id: str) -> str:
    if _GENERATION.fullmatch(version_id) is None:
        raise InvalidRequest("InvalidArgument", f"Invalid version id specified: {version_id[:100]!r}")
    return version_id


def _unknown(what: str) -> NotSupported:
    return NotSupported(f"{what} means nothing to Google Cloud Storage, where this bucket lives.")
