"""What can't be used is refused in one line that names the place, the key, the value and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.config.sources import load_configuration
from proxy.errors import ConfigInvalid

ORIGIN = 'origins: {lab: {type: s3, endpoint: "http://h:1"}}\n'


def refusal(tmp_path: Path, text: str) -> str:
    """The message for a file, without the file's name."""
    path = tmp_path / "warmstart.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigInvalid) as caught:
        load_configuration(path, {})
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("wokers: 3", ["wokers: is an", "unknown key", "did you mean workers"]),
        ("zzz: 3", ["zzz: is an", "unknown key", "write one of: listen, workers"]),
        ("cache: {block_sise: 8MiB}", ["cache.block_sise: is an", "did you mean block_size"]),
        ("cache: {disks: [{path: /x, syze: 1GiB}]}", ["cache.disks[0].syze", "did you mean size"]),
        (
            "limits: {stall_timeout_max: 30s}",
            ["limits.stall_timeout_max: '30s'", "too long for retry_deadline (30s)", "write at most 15s"],
        ),
        (
            "limits: {stall_timeout_max: 30s, retry_deadline: 2m, read_timeout: 20s}",
            ["limits.stall_timeout_max: '30s'", "too long for read_timeout (20s)"],
        ),
        ("limits: {stall_timeout: 16s}", ["limits.stall_timeout: '16s'", "stall_timeout_max (15s)"]),
        ("limits: {stall_timeout_min: 6s}", ["limits.stall_timeout_min: '6s'", "stall_timeout (5s)"]),
        ("limits: {connect_timeout: 30s}", ["limits.connect_timeout: '30s'", "retry_deadline (30s)"]),
        ("limits: {fill: 8MiB}", ["limits.fill: is an", "did you mean fills"]),
        ("workers: some", ["workers: 'some'", "whole number"]),
        ("workers: 0", ["workers: '0'", "at least 1"]),
        ("workers: 1000", ["workers: '1000'", "at most 250"]),
        ("cache: {block_size: 12MB}", ["cache.block_size: '12MB'", "multiple of 64KiB", "write 8MiB"]),
        ("cache: {block_size: 32MiB}", ["cache.block_size: '32MiB'", "up to 16MiB"]),
        ("cache: {block_size: 0}", ["cache.block_size: '0'", "write 8MiB"]),
        ("cache: {segment_size: 100MiB}", ["cache.segment_size: '100MiB'", "power of two"]),
        ("cache: {disks: [{path: /x, size: 20G}]}", ["cache.disks[0].size: '20G'", "20GiB"]),
        ("cache: {disks: [{path: /x}, {path: /y, size: 1MiB}]}", ["cache.disks[1].size: '1MiB'", "at least 64MiB"]),
        (
            "cache: {block_size: 16MiB, disks: [{path: /x, size: 64MiB}]}",
            ["cache.disks[0].size: '64MiB'", "two blocks free", "at least 80MiB", "smaller block_size"],
        ),
        (
            "cache: {low_watermark: 1%, disks: [{path: /x, size: 1GiB}]}",
            ["cache.disks[0].size: '1GiB'", "low_watermark of 1%", "at least 1600MiB"],
        ),
        ("cache: {disks: [{path: /x}, {path: /x}]}", ["cache.disks[1].path: '/x'", "listed twice"]),
        ("cache: {disks: []}", ["cache.disks", "is empty"]),
        ("cache: {disks: {path: ~nobody-of-that-name/x}}", ["cache.disks[0].path", "no such home", "full path"]),
        ("cache: {disks: 7}", ["cache.disks[0]", "'7'", "mapping"]),
        ("cache: 5", ["cache: '5'", "mapping"]),
        ("cache: {low_watermark: 96%}", ["cache.low_watermark: '96%'", "below high_watermark (95%)"]),
        ("cache: {high_watermark: 95}", ["cache.high_watermark: '95'", "95%"]),
        ("listen: nowhere", ["listen", "'nowhere'", "write host:port"]),
        ('listen: ["127.0.0.1:1", ":2"]', ["listen[1]: ':2'", "write host:port"]),
        ("listen: []", ["listen", "is empty"]),
        ("listen: [::1]:9000", ["line 1, column 10", "in quotes"]),
        ("listen: 0.0.0.0:9000", ["listen: '0.0.0.0:9000'", "auth: none"]),
        ('listen: ["127.0.0.1:1", "[::]:1"]', ["listen: '[::]:1'", "auth: none"]),
        ("auth: open", ["auth.mode: 'open'", "not one of 'none'"]),
        ("auth: {mode: none, key: 1}", ["auth.key", "unknown key"]),
        ("writes: maybe", ["writes: 'maybe'", "'deny' or 'through'"]),
        ("log: {level: loud}", ["log.level: 'loud'", "'debug'"]),
        ("log: {access: perhaps}", ["log.access: 'perhaps'", "true nor false"]),
        ("host_suffixes: ['a b']", ["host_suffixes[0]: 'a b'", "host name"]),
        ("host_suffixes: s3.local", ["host_suffixes: 's3.local'", "list"]),
        ("limits: {drain_timeout: 30}", ["limits.drain_timeout: '30'", "write 30s"]),
        ("limits: {connect_timeout: 0s}", ["limits.connect_timeout: '0s'", "more than 0s"]),
        ("limits: {request_head: 5}", ["limits.request_head: '5'", "at least 8KiB"]),
        ("limits: {origin_requests: 1}", ["limits.origin_requests: '1'", "at least 4"]),
        ("cache: {disks: [{path: /x, size: 500}]}", ["cache.disks[0].size: '500'", "at least 64MiB"]),
        ("limits: {fill_bytes: 10KiB}", ["limits.fill_bytes: '10KiB'", "at least 1MiB"]),
        ("buckets: {a: {origin: lob}}", ["buckets.a.origin: 'lob'", "write one of: lab"]),
        ("buckets: {a: {}}", ["buckets.a.origin", "is missing"]),
        ("buckets: {a: {origin: lab, consistency: lazy}}", ["buckets.a.consistency: 'lazy'", "ttl 60s"]),
        ("buckets: {a: {origin: lab, consistency: ttl 60}}", ["buckets.a.consistency: 'ttl 60'", "write 60s"]),
        ("buckets: {a: {origin: lab, negative_ttl: 5}}", ["buckets.a.negative_ttl: '5'", "write 5s"]),
        ('buckets: {"*": {origin: lab, bucket: x}}', ["buckets.*.bucket: 'x'", "every bucket the same"]),
        ("buckets: {*: {origin: lab}}", ["line 1, column 12", 'write "*"']),
        ("buckets: {a/b: {origin: lab}}", ["buckets.a/b", "not a bucket name"]),
        ("buckets: {'-': {origin: lab}}", ["buckets.-", "not a bucket name"]),
        ("tls: {certificate: /nowhere, key: /nowhere}", ["tls.certificate: '/nowhere'", "not a file"]),
        ("tls: {certificate: /nowhere}", ["tls.key", "is missing"]),
        ("workers: 1\nworkers: 2", ["line 2, column 1", "workers is written twice"]),
        ("workers: [", ["not YAML"]),
        ("- workers", ["not YAML"]),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = refusal(tmp_path, f"{text}\n{ORIGIN}")
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    ("origin", "parts"),
    [
        ("{type: s4}", ["origins.lab", "'s4'", "s3 or gcs or file or gateway"]),
        ("{endpoint: 'http://h'}", ["origins.lab", "add type"]),
        ("{type: s3, endpoint: nothing}", ["origins.lab.endpoint: 'nothing'", "write http://host:port"]),
        ("{type: s3, endpoint: 'ftp://h'}", ["origins.lab.endpoint: 'ftp://h'", "write http://host:port"]),
        ("{type: s3, endpoint: 'http://h:x'}", ["origins.lab.endpoint: 'http://…'", "write http://host:port"]),
        ("{type: s3, endpoint: 'http://h:99999'}", ["origins.lab.endpoint", "write http://host:port"]),
        ("{type: s3, endpoint: 'http://h/bucket'}", ["origins.lab.endpoint", "write only http://h"]),
        ("{type: s3, endpoint: 5}", ["origins.lab.endpoint: '5'", "write http://host:port"]),
        ("{type: s3, access_key_id: a}", ["origins.lab.secret_access_key", "belong together"]),
        ("{type: s3, secret_access_key: b}", ["origins.lab.access_key_id", "belong together"]),
        ("{type: s3, session_token: t}", ["origins.lab.session_token", "has no key"]),
        ("{type: s3, anonymous: true, profile: p}", ["origins.lab.anonymous", "together with credentials"]),
        ("{type: s3, addressing: dns}", ["origins.lab.addressing: 'dns'", "'auto', 'path' or 'virtual'"]),
        ("{type: s3, ca_file: /nowhere}", ["origins.lab.ca_file: '/nowhere'", "give the path of a PEM file"]),
        ("{type: s3, ca_file: /dev/null}", ["origins.lab.ca_file: '/dev/null'", "holds no certificates"]),
        ("{type: s3, base_path: /x}", ["origins.lab.base_path: '/x'", "add its endpoint"]),
        ("{type: s3, endpoint: 'http://h', base_path: my org}", ["origins.lab.base_path: 'my org'"]),
        ("{type: s3, root: /x}", ["origins.lab.root: is a key of type file, not of s3", "write one of: bandwidth"]),
        ("{type: gcs, region: x}", ["origins.lab.region: is a key of type s3, not of gcs", "credentials"]),
        ("{type: gcs, endpoint: nothing}", ["origins.lab.endpoint: 'nothing'", "write http://host:port"]),
        ("{type: gcs, credentials: adc}", ["origins.lab.credentials", "write default, {service_account_file: PATH}"]),
        (
            "{type: gcs, credentials: {file: /x}}",
            ["origins.lab.credentials.file", "write one of: service_account"],
        ),
        ("{type: gcs, credentials: {impersonat: a@b}}", ["origins.lab.credentials.impersonat", "mean impersonate"]),
        ("{type: gcs, credentials: {impersonate: me}}", ["credentials.impersonate: 'me'", "gserviceaccount.com"]),
        (
            "{type: gcs, credentials: {service_account_file: /nowhere}}",
            ["credentials.service_account_file: '/nowhere'", "is not a service account's JSON key file"],
        ),
        ("{type: gcs, project: 'a b'}", ["origins.lab.project: 'a b'", "not a project id"]),
        ("{type: gcs, user_project: 'a/b'}", ["origins.lab.user_project: 'a/b'", "not a project id"]),
        ("{type: gcs, anonymous: true, credentials: default}", ["origins.lab.anonymous", "together with credentials"]),
        ("{type: file}", ["origins.lab.root", "is missing"]),
        ("{type: gateway}", ["origins.lab.endpoint: is missing"]),
        (
            "{type: gateway, endpoint: 'http://h', verifi: 1}",
            ["origins.lab.verifi: is an unknown key; did you mean verify?"],
        ),
        (
            "{type: gcs, access_key_id: a, secret_access_key: b}",
            ["origins.lab.access_key_id: is a key of type s3, not of gcs; remove it"],
        ),
        ("{type: s3, hedge: 50%}", ["origins.lab.hedge: '50%'", "write at most 10%"]),
        ("{type: gcs, bandwidth: 5}", ["origins.lab.bandwidth: '5'", "write at least 64KiB"]),
    ],
)
def test_a_bad_origin_is_refused(tmp_path: Path, origin: str, parts: list[str]) -> None:
    message = refusal(tmp_path, f"origins: {{lab: {origin}}}\n")
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    "origin",
    [
        "{type: s3, access_key_id: a, secret_acess_key: hush-hush}",
        "{type: s3, access_key_id: 5, secret_access_key: hush-hush}",
        "{type: s3, secret_access_key: hush-hush}",
        "{type: s3, profile: p, access_key_id: a, secret_access_key: hush-hush}",
        "{type: s3, endpoint: 'http://user:hush-hush@host'}",
        "{type: s4, secret_access_key: hush-hush}",
        "{secret_access_key: hush-hush}",
        "hush-hush",
        "[hush-hush]",
        "{type: file, root: /x, secret_access_key: hush-hush}",
        "{type: s3, access_key_id: a, secret_access_key: {x: hush-hush}}",
        "{type: gcs, credentials: hush-hush}",
        "{type: gcs, credentials: {token: hush-hush}}",
    ],
)
def test_a_refusal_never_shows_a_secret(tmp_path: Path, origin: str) -> None:
    assert "hush" not in refusal(tmp_path, f"origins: {{lab: {origin}}}\n")


def test_a_secret_that_yaml_reads_as_a_number_is_refused_without_showing_it(tmp_path: Path) -> None:
    message = refusal(tmp_path, "origins: {lab: {type: s3, access_key_id: a, secret_access_key: 0123}}\n")
    assert "origins.lab.secret_access_key: is a number; put it in quotes" in message
    assert "83" not in message


def test_a_configuration_without_an_origin_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "") == "origins: is empty; add one, or give --origin URL"
    with pytest.raises(ConfigInvalid, match=r"^origins: is empty; add one, or give --origin URL$"):
        load_configuration(None, {})


def test_two_origins_without_buckets_are_refused(tmp_path: Path) -> None:
    text = "origins: {a: {type: file, root: /a}, b: {type: file, root: /b}}\n"
    assert refusal(tmp_path, text + "workers: 1\n").endswith(
        'name the origin of each bucket, or write "*": {origin: …}'
    )


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="can't be read"):
        load_configuration(tmp_path / "none.yaml", {})
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        load_configuration(tmp_path / "bytes.yaml", {})
    with pytest.raises(ConfigInvalid, match="not a mapping"):
        (tmp_path / "list.yaml").write_text("- 1\n")
        load_configuration(tmp_path / "list.yaml", {})


@pytest.mark.parametrize(
    "text",
    [
        "root:*:19000:0:hush-hush:7:::\ndaemon:*:19000:0:99999:7:::\n",
        "AKIA-hush: x\n",
        "hush-hush\n",
        "a hush key: {b: 1}\n",
    ],
)
def test_nothing_of_a_file_that_is_no_configuration_is_shown(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, text)
    assert "hush" not in message
    assert "configs/warmstart.yaml" in message
