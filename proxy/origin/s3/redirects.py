"""Regions of buckets, and redirects within an origin.

How it works. An S3 service answers a request signed for the wrong region with 301 or 400 and names the right one
(`x-amz-bucket-region`, or `<Region>` in the error). It is remembered for the bucket, and the request is signed again
for it. A redirect with a Location (a new bucket, a gateway in front) is followed too, for this one operation, if it
stays within the origin. A write is followed only if its method stays the same (307, 308).
Source: Amazon S3 User Guide, "Making requests using the REST API: request redirection".
"""

from __future__ import annotations

from cachetools import LRUCache

from proxy.http.headers import Headers
from proxy.origin.headers import first_value
from proxy.origin.refusals import parse_code
from proxy.origin.s3.errors import parse_region
from proxy.origin.s3.target import Query, Site, is_region, redirected

REDIRECTS_MAX = 3
_ELSEWHERE = frozenset((301, 302, 307, 308))
_KEEPING_METHOD = frozenset((307, 308))
TURNING_STATUSES = _ELSEWHERE | {400}
BUCKETS_MAX = 10_000


class Regions:
    """The region of each bucket, as far as the origin has said."""

    def __init__(self, default: str) -> None:
        self._default = default
        self._known: LRUCache[str, str] = LRUCache(BUCKETS_MAX)

    def of(self, bucket: str) -> str:
        return self._known.get(bucket, self._default)

    def knows(self, bucket: str) -> bool:
        return bucket in self._known

    def learn(self, bucket: str, region: str) -> None:
        self._known[bucket] = region


class OperationRoute:
    """The current target of one operation, and the region for which it is signed."""

    def __init__(
        self, site: Site, regions: Regions, bucket: str, key: str | None, query: Query = (), *, writes: bool = False
    ) -> None:
        self._site = site
        self._regions = regions
        self._bucket, self._key, self._query = bucket, key, query
        self._writes = writes
        self._turns = 0
        self.region = regions.of(bucket)
        self.target = site.locate(bucket, key, self.region, query)

    def turn(self, status: int, headers: Headers, body: bytes) -> bool:
        """Return whether that answer is a redirect; if so, `target` and `region` are updated."""
        if status not in TURNING_STATUSES or self._turns == REDIRECTS_MAX:
            return False
        self._turns += 1
        followed = _KEEPING_METHOD if self._writes else _ELSEWHERE
        return self._to_region(headers, body) or (status in followed and self._to_location(headers))

    def _to_region(self, headers: Headers, body: bytes) -> bool:
        region = first_value(headers, "x-amz-bucket-region")
        if region is None and parse_code(body) == "AuthorizationHeaderMalformed":
            region = parse_region(body)
        if region is None or region == self.region or not is_region(region):
            return False
        self.region = region
        self._regions.learn(self._bucket, region)
        self.target = self._site.locate(self._bucket, self._key, region, self._query)
        return True

    def _to_location(self, headers: Headers) -> bool:
        location = first_value(headers, "location")
        target = redirected(self.target, location, self._bucket) if location is not None else None
        if target is None or target == self.target:
            return False
        self.target = target
        return True
