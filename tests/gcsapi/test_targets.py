"""What a target speaks of: the JSON API only where all of the path has its shape, else bucket and name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcsapi.resources import encode
from gcsapi.targets import JsonTarget, XmlTarget, json_endpoint, parse_target
from proxy.errors import InvalidRequest


@pytest.mark.parametrize(
    ("target", "endpoint", "segments"),
    [
        (b"/storage/v1/b", "", ("b",)),
        (b"/storage/v1/b/w", "", ("b", "w")),
        (b"/storage/v1/b/w/", "", ("b", "w")),
        (b"/storage/v1/b/w/o", "", ("b", "w", "o")),
        (b"/storage/v1/b/w/o/a%2Fb%20c", "", ("b", "w", "o", "a/b c")),
        (b"/storage/v1/b/my%2Dbucket/o/%2F%2Fx", "", ("b", "my-bucket", "o", "//x")),
        (b"/storage/v1/b/w/o/x/compose", "", ("b", "w", "o", "x", "compose")),
        (b"/storage/v1/b/w/o/x/rewriteTo/b/v/o/y", "", ("b", "w", "o", "x", "rewriteTo", "b", "v", "o", "y")),
        (b"/storage/v1/b/w/acl/allUsers", "", ("b", "w", "acl", "allUsers")),
        (b"/storage/v1/projects/p/serviceAccount", "", ("projects", "p", "serviceAccount")),
        (b"/storage/v1/channels/stop", "", ("channels", "stop")),
        (b"/download/storage/v1/b/w/o/x", "download", ("b", "w", "o", "x")),
        (b"/upload/storage/v1/b/w/o", "upload", ("b", "w", "o")),
        (b"/resumable/upload/storage/v1/b/w/o", "upload", ("b", "w", "o")),
        (b"http://host:1/storage/v1/b/w/o/x", "", ("b", "w", "o", "x")),
        (b"/batch", "batch", ()),
        (b"/batch/storage/v1", "batch", ()),
    ],
)
def test_paths_of_the_json_api(target: bytes, endpoint: str, segments: tuple[str, ...]) -> None:
    assert parse_target(target, "h") == JsonTarget(endpoint, segments)


@pytest.mark.parametrize(
    ("target", "bucket", "name"),
    [
        (b"/storage", "storage", None),
        (b"/storage/", "storage", None),
        (b"/storage/v1", "storage", "v1"),
        (b"/storage/v1/", "storage", "v1/"),
        (b"/storage/v1/x", "storage", "v1/x"),
        (b"/storage/v1/b/w/o/a/b", "storage", "v1/b/w/o/a/b"),
        (b"/storage/v1/b/w/p", "storage", "v1/b/w/p"),
        (b"/storage/v1/b//o/x", "storage", "v1/b//o/x"),
        (b"/download/model.bin", "download", "model.bin"),
        (b"/download/storage/v1/b/w", "download", "storage/v1/b/w"),
        (b"/upload/storage/v1/b/w/o/x", "upload", "storage/v1/b/w/o/x"),
        (b"/batch/x", "batch", "x"),
        (b"/w//lead", "w", "/lead"),
        (b"/w/key%2Ebin", "w", "key.bin"),
        (b"/my%2Dbucket/k", "my-bucket", "k"),
        (b"/", "", None),
    ],
)
def test_all_other_paths_are_bucket_and_name(target: bytes, bucket: str, name: str | None) -> None:
    assert parse_target(target, "h") == XmlTarget(bucket, name)


def test_a_host_of_a_suffix_names_the_bucket_and_the_path_is_the_name() -> None:
    suffixes = ("storage.test",)
    assert parse_target(b"/storage/v1/b", "w.storage.test:80", suffixes) == XmlTarget("w", "storage/v1/b")
    assert parse_target(b"/storage/v1/b", "storage.test", suffixes) == JsonTarget("", ("b",))
    assert parse_target(b"http://w.storage.test/x", "other", suffixes) == XmlTarget("w", "x")


@pytest.mark.parametrize(
    ("target", "code"),
    [
        (b"/storage/v1/b/w/o/%zz", "InvalidURI"),
        (b"/storage/v1/b/w/o/%ff", "InvalidURI"),
        (b"/storage/v1/b/w%20w/o/x", "InvalidBucketName"),
        (b"/w/%ff", "InvalidURI"),
        (b"/-w/x", "InvalidBucketName"),
        (b"/w/" + b"n" * 1025, "KeyTooLongError"),
        (b"/storage/v1/b/w/o/" + b"%C3%BC" * 513, "KeyTooLongError"),
        (b"nonsense", "InvalidURI"),
    ],
)
def test_what_does_not_decode_is_refused(target: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_target(target, "h")
    assert caught.value.code == code


@given(st.text(min_size=1, max_size=40).filter(lambda name: not any("\ud800" <= char <= "\udfff" for char in name)))
def test_every_name_comes_back_from_its_path(name: str) -> None:
    target = parse_target(f"/storage/v1/b/w/o/{encode(name)}".encode(), "h")
    assert isinstance(target, JsonTarget)
    assert (target.bucket, target.name, target.part) == ("w", name, ())


@given(st.binary(max_size=60))
def test_no_path_breaks_the_look_for_a_door(path: bytes) -> None:
    for prefix in (b"/", b"/storage/v1/", b"/download/storage/v1/", b"/upload/storage/v1/b/"):
        assert json_endpoint(prefix + path) in (None, "", "download", "upload", "batch")
