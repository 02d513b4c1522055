"""Bucket operations that this gateway answers itself, for origins that speak no S3 (directories, GCS)."""

from __future__ import annotations

from proxy.errors import InvalidRequest, NotSupported
from proxy.gateway.routes import BucketRoute, Routes
from proxy.surface.heads import Reply
from s3api.listing import parse_list_request, render_buckets, render_list, render_location
from s3api.requests import Pass

REGION = "us-east-1"
_XML = (("content-type", "application/xml"),)


async def list_buckets(routes: Routes) -> Reply:
    """See `Routes.list_buckets`."""
    return Reply(200, _XML, render_buckets((await routes.list_buckets()).items()))


async def answer_bucket(route: BucketRoute, operation: Pass) -> Reply:
    """Raises NotFound, InvalidRequest, what the origin raises; NotSupported for what only an S3 origin can do."""
    match operation.operation:
        case "ListObjects" | "ListObjectsV2":
            return await _list_objects(route, operation)
        case "HeadBucket":
            await _check_exists(route)
            return Reply(200, (("x-amz-bucket-region", REGION), *_XML))
        case "GetBucketLocation":
            await _check_exists(route)
            return Reply(200, _XML, render_location())
    if route.origin.dialect == "gcs":
        raise NotSupported(f"{operation.operation} is not possible for a bucket at Google Cloud Storage.")
    where = f"The bucket {route.name!r} is a directory"
    if operation.mutates:
        raise InvalidRequest("MethodNotAllowed", f"{where}, which is read-only through this gateway.")
    raise NotSupported(f"{where}; {operation.operation} exists only for buckets at an S3 origin.")


async def _list_objects(route: BucketRoute, operation: Pass) -> Reply:
    request = parse_list_request(route.name, dict(reversed(operation.query)))
    page = await route.origin.list_objects(
        route.real_bucket,
        prefix=request.prefix,
        delimiter=request.delimiter,
        after=request.after,
        limit=request.max_keys,
    )
    return Reply(200, (("x-amz-bucket-region", REGION), *_XML), render_list(request, page))


async def _check_exists(route: BucketRoute) -> None:
    """Raises NotFound."""
    await route.origin.list_objects(route.real_bucket, prefix="", delimiter="/", after="", limit=1)
