"""The check that an answer is what was requested, from its head alone, before a byte of the body is used.

How it works. The range must be the requested one (`proxy.origin.answers`), and ETag, Last-Modified and version id must
be those of the version, because the origin may have ignored the request's condition. Another version raises
VersionChanged (resolve the key again); an answer that fits no version raises OriginUnavailable.
"""

from __future__ import annotations

from proxy.http.headers import Headers
from proxy.objects import ObjectVersion
from proxy.origin.answers import check_range
from proxy.origin.headers import first_value
from proxy.origin.s3.headers import parse_validator, read_validator
from proxy.origin.trouble import changed, mismatch
from proxy.ranges import ByteRange
from proxy.wire.head import ResponseHead


def is_success(head: ResponseHead, version: ObjectVersion, span: ByteRange) -> bool:
    """Return True if the body is exactly this span of this version, False for an error whose body is worth reading.

    Raises VersionChanged, or OriginUnavailable for an answer that makes no sense.
    """
    if head.status in (412, 416):
        raise changed(version.origin, version.key, f"it answered {head.status}")
    if head.status not in (200, 206):
        return False
    check_version(head.headers, version)
    check_range(head, version, span)
    return True


def check_version(headers: Headers, version: ObjectVersion) -> None:
    """Raise VersionChanged or OriginUnavailable for headers, except sizes, that are not this version's."""
    version_id, _ = parse_validator(version.validator)
    own_id = first_value(headers, "x-amz-version-id")
    if version_id is not None and own_id is not None and own_id != version_id:
        raise mismatch(f"version {own_id!r} for version {version_id!r}", headers)
    if version_id is not None and version_id != "null":
        return
    etag = first_value(headers, "etag") or ""
    if not etag and not version.validator.startswith("none"):
        raise mismatch("no ETag", headers)
    found = read_validator(version_id, etag, first_value(headers, "last-modified"))
    if found != version.validator:
        raise changed(version.origin, version.key, f"{found}, not {version.validator}")
