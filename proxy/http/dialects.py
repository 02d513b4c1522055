"""The dialects that clients speak, and how a request tells which one it is in. Pure.

How it works. On a port of both, in this order:
1. a listener, or a host suffix, that belongs to one dialect decides;
2. a signature or a header of one dialect decides: `Authorization: AWS…` and `X-Amz-*` are S3's, `Authorization: Bearer`
   or `GOOG…`, `X-Goog-*` and `GoogleAccessId` are GCS's, each in the headers or in the query;
3. a path of GCS's JSON API is GCS's;
4. what says nothing is in the dialect of the bucket's origin, and its answer carries the headers of both.
`sniff` is the second step. S3 comes before GCS there, for GCS's XML API takes S3's signatures, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Literal

DialectName = Literal["s3", "gcs"]


class Dialect(Enum):
    S3 = "s3"
    GCS = "gcs"


_GCS_SCHEMES = (b"bearer ", b"goog")
_S3_PARAMETERS = (b"x-amz-", b"awsaccesskeyid=")
_GCS_PARAMETERS = (b"x-goog-", b"googleaccessid=", b"generation=")


def sniff(fields: Mapping[bytes, bytes], query: bytes) -> Dialect | None:
    """The dialect that headers (lower-case names) or the raw query betray, or None: either.

    Costs a loop over the headers' names, and one over the query's parameters where there is a query.
    """
    authorization = fields.get(b"authorization")
    if authorization is not None:
        scheme = authorization[:7].lower()
        if scheme.startswith(b"aws"):
            return Dialect.S3
        if scheme.startswith(_GCS_SCHEMES):
            return Dialect.GCS
    found = sniff_names(fields)
    if found is None and query:
        found = _sniff_query(query)
    return found


def sniff_names(names: Iterable[bytes]) -> Dialect | None:
    """The dialect of the headers' names."""
    found = None
    for name in names:
        if name.startswith(b"x-amz-"):
            return Dialect.S3
        if name.startswith(b"x-goog-"):
            found = Dialect.GCS
    return found


def _sniff_query(query: bytes) -> Dialect | None:
    found = None
    for item in query.lower().split(b"&"):
        if item.startswith(_S3_PARAMETERS):
            return Dialect.S3
        if item.startswith(_GCS_PARAMETERS):
            found = Dialect.GCS
    return found
