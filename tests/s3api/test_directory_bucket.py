"""A bucket that is a directory: get, head and list by the gateway itself, and nothing else."""

from __future__ import annotations

from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.s3api.running_gateway import RunningGateway

KEYS = ["a b+c.bin", "config.json", "shards/1.bin", "shards/2.bin", "shards/deep/3.bin"]


@pytest.fixture(scope="module")
def client(site: RunningGateway) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=site.gateway.url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )


def test_every_file_reads_as_an_object(client: Any) -> None:
    for key in KEYS:
        answer = client.get_object(Bucket="shelf", Key=key)
        assert answer["Body"].read() == key.encode()
        assert client.head_object(Bucket="shelf", Key=key)["ETag"] == answer["ETag"]


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("page_size", [1, 2, 1000])
def test_listing_pages_by_either_version(client: Any, operation: str, page_size: int) -> None:
    pages = client.get_paginator(operation).paginate(Bucket="shelf", PaginationConfig={"PageSize": page_size})
    listed = [found for page in pages for found in page.get("Contents", ())]
    assert [found["Key"] for found in listed] == KEYS
    assert [found["Size"] for found in listed] == [len(key) for key in KEYS]


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("page_size", [1, 2, 1000])
def test_listing_folds_at_a_delimiter(client: Any, operation: str, page_size: int) -> None:
    pages = list(
        client.get_paginator(operation).paginate(
            Bucket="shelf", Delimiter="/", PaginationConfig={"PageSize": page_size}
        )
    )
    assert [found["Key"] for page in pages for found in page.get("Contents", ())] == ["a b+c.bin", "config.json"]
    assert [found["Prefix"] for page in pages for found in page.get("CommonPrefixes", ())] == ["shards/"]


def test_listing_names_the_bucket_as_the_client_does(client: Any) -> None:
    assert client.list_objects_v2(Bucket="shelf", Prefix="shards/", MaxKeys=1)["Name"] == "shelf"


def test_listed_etags_are_those_of_the_objects(client: Any) -> None:
    listed = client.list_objects_v2(Bucket="shelf")["Contents"]
    for found in listed:
        head = client.head_object(Bucket="shelf", Key=found["Key"])
        assert head["ETag"] == found["ETag"]
        assert head["LastModified"].replace(microsecond=0) == found["LastModified"].replace(microsecond=0)


def test_bucket_has_a_head_and_a_location(site: RunningGateway, client: Any) -> None:
    assert client.head_bucket(Bucket="shelf")["BucketRegion"] == "us-east-1"
    assert client.get_bucket_location(Bucket="shelf")["LocationConstraint"] is None
    assert site.ask("GET", "/shelf?list-type=2").cache == "BYPASS"


@pytest.mark.parametrize(
    "key", ["../weights/config.json", "/config.json", "shards//1.bin", "./config.json", "shards/", "shards"]
)
def test_keys_that_a_tree_cannot_express_do_not_exist(site: RunningGateway, key: str) -> None:
    answer = site.get(key, "shelf")
    assert (answer.status, answer.error()["Code"]) == (404, "NoSuchKey")


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("PUT", "/shelf/new"),
        ("DELETE", "/shelf/config.json"),
        ("POST", "/shelf/new?uploads"),
        ("POST", "/shelf?delete"),
        ("DELETE", "/shelf"),
        ("PUT", "/shelf?policy"),
    ],
)
def test_writes_are_refused_clearly(site: RunningGateway, method: str, target: str) -> None:
    answer = site.ask(method, target, body=b"x")
    assert (answer.status, answer.error()["Code"]) == (405, "MethodNotAllowed")
    assert "read-only" in answer.error()["Message"]
    assert (site.shelf / "config.json").exists()


@pytest.mark.parametrize("target", ["/shelf/config.json?acl", "/shelf?versioning", "/shelf?uploads"])
def test_what_a_directory_has_not_is_not_implemented(site: RunningGateway, target: str) -> None:
    answer = site.ask("GET", target)
    assert (answer.status, answer.error()["Code"]) == (501, "NotImplemented")


def test_parameters_that_mean_nothing_are_ignored(site: RunningGateway) -> None:
    answer = site.ask("GET", "/shelf/config.json?shiny=1", {"x-amz-request-payer": "requester"})
    assert (answer.status, answer.body) == (200, b"config.json")


@pytest.mark.parametrize("query", ["max-keys=-1", "list-type=2&continuation-token=x", "encoding-type=x"])
def test_bad_list_parameters_are_refused(site: RunningGateway, query: str) -> None:
    answer = site.ask("GET", f"/shelf?{query}")
    assert (answer.status, answer.error()["Code"]) == (400, "InvalidArgument")
