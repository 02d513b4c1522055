"""Flags win over the environment, the environment over the file; nothing in any of them is ignored."""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.config.origins import GcsCredentialSettings
from proxy.config.quantities import GIB, MIB, Address
from proxy.config.settings import Settings
from proxy.config.sources import Layer, Shorthands, check_layers, load_configuration
from proxy.errors import ConfigInvalid

ORIGIN = 'origins: {lab: {type: s3, endpoint: "http://h:1"}}\n'


def load(
    tmp_path: Path,
    text: str = ORIGIN,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    **shorthands: Any,
) -> Settings:
    path = tmp_path / "warmstart.yaml"
    path.write_text(text, "utf-8")
    return load_configuration(path, environment or {}, flags, Shorthands(**shorthands)).settings


def test_the_example_of_the_readme_is_read(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        listen: 127.0.0.1:9000
        workers: 2
        auth: none
        cache:
          block_size: 8MiB
          disks:
            - {path: ./cache, size: 20GiB}
        origins:
          lab: {type: s3, endpoint: "http://127.0.0.1:5000", region: us-east-1, access_key_id: a, secret_access_key: b,
                addressing: path}
          shelf: {type: file, root: /data/models}
        buckets:
          models: {origin: lab, bucket: real-name, consistency: "ttl 60s"}
          "*": {origin: lab}
        """,
    )
    assert settings.listen == (Address("127.0.0.1", 9000),)
    assert settings.cache.block_size == 8 * MIB
    assert [(disk.path, disk.size) for disk in settings.cache.disks] == [(Path("cache"), 20 * GIB)]
    assert settings.buckets["models"].bucket == "real-name"
    assert (settings.buckets["models"].consistency.kind, settings.buckets["models"].consistency.ttl_s) == ("ttl", 60.0)
    assert list(settings.origins) == ["lab", "shelf"]


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    text = ORIGIN + "workers: 1\nlog: {level: error, format: text}\nwrites: deny\n"
    environment = {"WARMSTART_WORKERS": "2", "WARMSTART_LOG__LEVEL": "warning"}
    settings = load(tmp_path, text, environment, {"workers": "3"})
    assert settings.workers == 3
    assert settings.log.level == "warning"
    assert settings.log.format == "text"
    assert settings.writes == "deny"


def test_every_kind_of_value_can_come_from_the_environment(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "",
        {
            "WARMSTART_LISTEN": "[::1]:9000",
            "WARMSTART_CACHE__BLOCK_SIZE": "4MiB",
            "WARMSTART_CACHE__DISKS": '[{"path": "/a", "size": "1GiB"}, {path: /b, size: 2GiB}]',
            "WARMSTART_ORIGINS__LAB__TYPE": "s3",
            "WARMSTART_ORIGINS__LAB__ACCESS_KEY_ID": "12345",
            "WARMSTART_ORIGINS__LAB__SECRET_ACCESS_KEY": "0123",
            "WARMSTART_BUCKETS": '{"*": {"origin": "lab", "stale_if_error": "1h"}}',
            "WARMSTART_AUTH": "none",
            "WARMSTART_LOG__ACCESS": "true",
            "WARMSTART_HOST_SUFFIXES": "[s3.local, s3.cluster]",
            "UNRELATED": "x",
        },
    )
    origin = settings.origins["lab"]
    assert settings.listen == (Address("::1", 9000),)
    assert settings.cache.block_size == 4 * MIB
    assert [disk.size for disk in settings.cache.disks] == [GIB, 2 * GIB]
    assert origin.type == "s3"
    assert origin.access_key_id == "12345"
    assert origin.secret_access_key is not None
    assert origin.secret_access_key.get_secret_value() == "0123"
    assert settings.buckets["*"].stale_if_error == 3600
    assert settings.log.access
    assert [str(suffix) for suffix in settings.host_suffixes] == ["s3.local", "s3.cluster"]


def test_listen_takes_a_list_in_the_environment_too(tmp_path: Path) -> None:
    settings = load(tmp_path, ORIGIN, {"WARMSTART_LISTEN": '["127.0.0.1:1", "[::1]:1"]'})
    assert settings.listen == (Address("127.0.0.1", 1), Address("::1", 1))


def test_one_part_of_a_single_disk_can_be_changed_from_above(tmp_path: Path) -> None:
    text = ORIGIN + "cache: {disks: [{path: /q, size: 8GiB}]}\n"
    disk = load(tmp_path, text, {}, None, cache_size="9GiB").cache.disks[0]
    assert (disk.path, disk.size) == (Path("/q"), 9 * GIB)
    disk = load(tmp_path, text, {"WARMSTART_CACHE__DISKS__PATH": "/r"}).cache.disks[0]
    assert (disk.path, disk.size) == (Path("/r"), 8 * GIB)
    disk = load(tmp_path, text, {"WARMSTART_CACHE_DIR": "/s", "WARMSTART_CACHE_SIZE": "1GiB"}).cache.disks[0]
    assert (disk.path, disk.size) == (Path("/s"), GIB)


def test_a_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load(tmp_path, ORIGIN, {}, None, cache_dir="~/c").cache.disks[0].path == Path("/home/somebody/c")


def test_the_default_cache_lies_in_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert load(tmp_path).cache.disks[0].path == Path("/xdg/warmstart")


def test_a_user_without_a_home_has_a_default_cache_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs under any number: no HOME, and no line in the password file."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert load(tmp_path).cache.disks[0].path == Path("/var/cache/warmstart")
    with pytest.raises(ConfigInvalid, match="no such home directory"):
        load(tmp_path, ORIGIN, {}, None, cache_dir="~/c")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://", {"type": "s3", "endpoint": None}),
        ("http://127.0.0.1:5000", {"type": "s3", "endpoint": "http://127.0.0.1:5000"}),
        ("https://store.example.com/", {"type": "s3", "endpoint": "https://store.example.com"}),
        ("file:///data/my%20models", {"type": "file", "root": Path("/data/my models")}),
    ],
)
def test_an_origin_flag_serves_every_bucket(tmp_path: Path, url: str, expected: dict[str, Any]) -> None:
    settings = load(tmp_path, "", {}, None, origin=url)
    [origin] = settings.origins.values()
    assert {key: getattr(origin, key) for key in expected} == expected
    assert list(settings.bucket_rules()) == ["*"]


def test_an_origin_flag_leaves_the_files_buckets_alone(tmp_path: Path) -> None:
    text = ORIGIN + 'buckets: {models: {origin: lab}, "*": {origin: lab, consistency: strong}}\n'
    settings = load(tmp_path, text, {}, None, origin="s3://", region="eu-west-1", anonymous=True)
    assert settings.buckets["models"].origin == "lab"
    origin = settings.origins[settings.buckets["*"].origin]
    assert origin.type == "s3"
    assert (origin.endpoint, origin.region, origin.anonymous) == (None, "eu-west-1", True)
    assert settings.buckets["*"].consistency.kind == "strong"


def test_flags_complete_their_twins_in_the_environment(tmp_path: Path) -> None:
    environment = {"WARMSTART_ORIGIN": "s3://", "WARMSTART_REGION": "a", "WARMSTART_ANONYMOUS": "yes"}
    [origin] = load(tmp_path, "", environment, None, region="b").origins.values()
    assert origin.type == "s3"
    assert (origin.region, origin.anonymous) == ("b", True)
    [origin] = load(tmp_path, "", {"WARMSTART_ORIGIN": "http://h:1"}, None, origin="file:///d").origins.values()
    assert origin.type == "file"
    [origin] = load(tmp_path, "", {}, None, origin="gs://", anonymous=True).origins.values()
    assert origin.type == "gcs"
    assert origin.anonymous


def test_a_gcs_origin_is_read_from_the_file_and_the_environment(tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    key.write_text('{"type": "service_account"}')
    text = "origins: {goog: {type: gcs, credentials: default}, other: {type: gcs, user_project: payer}}\n"
    text += 'buckets: {"*": {origin: goog}}\n'
    environment = {"WARMSTART_ORIGINS__OTHER__CREDENTIALS__SERVICE_ACCOUNT_FILE": str(key)}
    origins = load(tmp_path, text, environment).origins
    goog, other = origins["goog"], origins["other"]
    assert goog.type == "gcs"
    assert goog.credentials == GcsCredentialSettings()
    assert other.type == "gcs"
    assert other.credentials == GcsCredentialSettings(service_account_file=key)
    assert other.user_project == "payer"


@pytest.mark.parametrize(
    ("shorthands", "message"),
    [
        ({"origin": "s3://bucket"}, "--origin: 's3://bucket' names a bucket; write s3:// (clients name the bucket)"),
        ({"origin": "gs://bucket"}, "--origin: 'gs://bucket' names a bucket; write gs:// (clients name the bucket)"),
        ({"origin": "gs://", "region": "x"}, "--region: Google Cloud Storage needs no region; remove the flag"),
        ({"origin": "az://"}, "--origin: 'az://' is not an origin; write s3:// (AWS), gs:// (Google)"),
        ({"origin": "localhost:5000"}, "--origin: 'localhost:5000' is not an origin"),
        ({"origin": "ftp://me:hush@h"}, "--origin: 'ftp://h' is not an origin"),
        ({"origin": "http://me:hush@h"}, "origins.command-line.endpoint: contains credentials"),
        ({"origin": "file:///d", "region": "x"}, "--origin: a directory has no region"),
        ({"region": "x"}, "--region: applies only to --origin, which is not given"),
        ({"anonymous": True}, "--anonymous: applies only to --origin"),
        ({"cache_size": "big"}, "command line: cache.disks[0].size: 'big' is not a size"),
        ({"log_level": "loud"}, "command line: log.level: 'loud' is not one of"),
    ],
)
def test_bad_flags_are_refused(tmp_path: Path, shorthands: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(tmp_path, ORIGIN, {}, None, **shorthands)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WARMSTART_LISTTEN", "x", "WARMSTART_LISTTEN: is not a setting"),
        ("WARMSTART_CACHE__", "x", "WARMSTART_CACHE__: is not a setting"),
        ("WARMSTART_CACHE__BLOKSIZE", "x", "WARMSTART_CACHE__BLOKSIZE: cache.bloksize: is an unknown key"),
        ("WARMSTART_WORKRES", "2", "WARMSTART_WORKRES: is not a setting; did you mean WARMSTART_WORKERS?"),
        ("WARMSTART_CONFGI", "x", "WARMSTART_CONFGI: is not a setting; did you mean WARMSTART_CONFIG?"),
        ("WARMSTART_CACHE__BLOCK_SIZE", "x", "WARMSTART_CACHE__BLOCK_SIZE: cache.block_size: 'x' is not a size"),
        ("WARMSTART_BUCKETS", "{a: [", "WARMSTART_BUCKETS: is neither JSON nor YAML"),
        ("WARMSTART_LISTEN", "0.0.0.0:1", "WARMSTART_LISTEN: listen: '0.0.0.0:1' can be reached"),
        ("WARMSTART_ANONYMOUS", "perhaps", "WARMSTART_ANONYMOUS: 'perhaps' is neither true nor false"),
    ],
)
def test_bad_variables_are_refused(tmp_path: Path, name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(tmp_path, ORIGIN, {name: value})
    assert str(caught.value).startswith(message)


def test_a_variable_below_one_that_sets_the_whole_is_refused(tmp_path: Path) -> None:
    environment = {"WARMSTART_LOG": "text", "WARMSTART_LOG__LEVEL": "debug"}
    with pytest.raises(ConfigInvalid, match="WARMSTART_LOG__LEVEL: another variable sets"):
        load(tmp_path, ORIGIN, environment)


def test_what_kubernetes_injects_for_a_service_of_our_name_is_left_alone(tmp_path: Path) -> None:
    injected = {
        "WARMSTART_SERVICE_HOST": "10.0.0.1",
        "WARMSTART_SERVICE_PORT": "9000",
        "WARMSTART_SERVICE_PORT_S3": "9000",
        "WARMSTART_PORT": "tcp://10.0.0.1:9000",
        "WARMSTART_PORT_9000_TCP": "tcp://10.0.0.1:9000",
        "WARMSTART_PORT_9000_TCP_PROTO": "tcp",
        "WARMSTART_PORT_9000_TCP_PORT": "9000",
        "WARMSTART_PORT_9000_TCP_ADDR": "10.0.0.1",
        "WARMSTART_PEERS_SERVICE_HOST": "10.0.0.2",
        "WARMSTART_PEERS_PORT_9001_UDP": "udp://10.0.0.2:9001",
    }
    assert load(tmp_path, ORIGIN, injected) == load(tmp_path)


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(ORIGIN + "workers: 7\n")
    assert load_configuration(None, {"WARMSTART_CONFIG": str(path)}).settings.workers == 7


def test_layers_survive_the_way_to_a_child(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(ORIGIN + "cache: {disks: {path: /a}}\n")
    loaded = load_configuration(path, {"WARMSTART_WORKERS": "3"}, {"listen": ["127.0.0.1:1"]})
    assert check_layers([Layer(layer.name, layer.values) for layer in loaded.layers]).settings == loaded.settings


def test_secrets_are_shown_neither_by_repr_nor_by_str_nor_as_json(tmp_path: Path) -> None:
    settings = load(
        tmp_path, "origins: {lab: {type: s3, access_key_id: a, secret_access_key: hush, session_token: hush}}\n"
    )
    assert "hush" not in f"{settings!r} {settings} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("text", "through"),
    [
        ("", True),
        ("listen: ['127.0.0.1:1', '[::1]:1']", True),
        ("listen: 0.0.0.0:1\nauth: none", False),
        ("listen: ['127.0.0.1:1', '10.0.0.1:1']\nauth: {mode: none}", False),
        ("listen: 0.0.0.0:1\nauth: none\nwrites: through", True),
        ("writes: deny", False),
    ],
)
def test_writes_go_through_by_default_only_where_nobody_else_can_connect(
    tmp_path: Path, text: str, through: bool
) -> None:
    settings = load(tmp_path, f"{text}\n{ORIGIN}buckets: {{a: {{origin: lab}}, b: {{origin: lab, writes: deny}}}}")
    assert settings.writes_through() is through
    assert settings.writes_through(settings.buckets["a"]) is through
    assert settings.writes_through(settings.buckets["b"]) is False
