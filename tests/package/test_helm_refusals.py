"""Values that can't be meant are refused before anything is installed, in a sentence that names the value."""

from __future__ import annotations

from typing import Any

import pytest

from tests.package.charts import Refused, needs_helm, render

pytestmark = needs_helm

DISK = {"hostPath": "/var/lib/warmstart", "size": "10GiB"}
KEYS = {"access_key_id": "a", "secret_access_key": "b"}
TWO = {"a": {"type": "s3"}, "b": {"type": "gcs"}}

BY_SENTENCE: dict[str, tuple[dict[str, Any], str]] = {
    "a size that is none": (
        {"cache": {"disks": [DISK | {"size": "20G"}]}},
        'cache.disks[0].size: "20G" is not a size; write a number and its unit, such as 500GiB or 500GB',
    ),
    "a size without a unit": (
        {"cache": {"disks": [DISK, DISK | {"size": 500}]}},
        'cache.disks[1].size: "500" is not a size',
    ),
    "a disk that is nowhere": (
        {"cache": {"disks": [{"size": "1TiB"}]}},
        "cache.disks[0]: needs either hostPath or volume",
    ),
    "a disk that is in two places": (
        {"cache": {"disks": [DISK | {"volume": {"emptyDir": {}}}]}},
        "cache.disks[0]: needs either hostPath or volume",
    ),
    "a relative directory": ({"cache": {"disks": [DISK | {"hostPath": "cache"}]}}, '"cache" is not an absolute path'),
    "a directory of the node's own": (
        {"cache": {"disks": [DISK | {"hostPath": "/var/lib/"}]}},
        '"/var/lib/" is a system directory of the node',
    ),
    "the root by a detour": (
        {"cache": {"disks": [DISK | {"hostPath": "/mnt/.."}]}},
        "is a system directory of the node",
    ),
    "one directory twice": (
        {"cache": {"disks": [DISK, DISK | {"hostPath": "/var/lib/./warmstart/"}]}},
        'cache.disks[1].hostPath: "/var/lib/./warmstart/" is listed twice',
    ),
    "two Redises": (
        {"redis": {"enabled": True, "url": "redis://r"}},
        "redis.enabled: is true, but redis.url is also set; use either this release's Redis or your own",
    ),
    "two Redises, one by a Secret": (
        {"redis": {"enabled": True, "existingSecret": "s"}},
        "redis.enabled: is true, but redis.existingSecret is also set",
    ),
    "two URLs": (
        {"redis": {"url": "redis://r", "existingSecret": "s"}},
        "redis.url: is set together with redis.existingSecret",
    ),
    "a Redis for nobody": ({"redis": {"enabled": True}, "cluster": {"enabled": False}}, "cluster.enabled: is false"),
    "a Redis that is none": ({"redis": {"url": "redis.example.net:6379"}}, "redis.url: is not a Redis URL"),
    "a password that a URL would break": (
        {"redis": {"enabled": True, "password": "p@ss"}},
        "redis.password: has characters",
    ),
    "a short secret": ({"cluster": {"secret": "short"}}, "cluster.secret: is shorter than 16 characters"),
    "one short secret of two": ({"cluster": {"secret": ["l" * 16, "short"]}}, "cluster.secret: is shorter than 16"),
    "two secrets": ({"cluster": {"secret": "l" * 16, "existingSecret": "s"}}, "cluster.secret: is set together with"),
    "two zones": (
        {"cluster": {"zone": "a", "zoneLabel": "b"}},
        "cluster.zone: is set together with cluster.zoneLabel",
    ),
    "a bucket of an undefined origin": (
        {"config": {"origins": TWO, "buckets": {"models": {"origin": "lab"}}}},
        'config.buckets.models.origin: "lab" is not one of config.origins; write one of: a, b',
    ),
    "a bucket of an origin that replaced the default": (
        {"config": {"origins": {"lab": {"type": "s3"}}, "buckets": {"*": {"origin": "s3"}}}},
        'config.buckets.*.origin: "s3" is not one of config.origins; write one of: lab',
    ),
    "origins without buckets": (
        {"config": {"origins": TWO}},
        "config.buckets: is empty, but there are several origins (a, b)",
    ),
    "a key in the ConfigMap": (
        {"config": {"origins": {"lab": {"type": "s3", "secret_access_key": "hush"}}}},
        "config.origins.lab.secret_access_key: would be readable in the ConfigMap; set credentials.lab.secret",
    ),
    "keys of nobody": (
        {"credentials": {"lab": KEYS}},
        "credentials.lab: is not one of config.origins; write one of: s3",
    ),
    "keys that no variable can name": (
        {"credentials": {"Lab": KEYS}, "config": {"origins": {"Lab": {"type": "s3"}}}},
        "credentials.Lab: can't be part of a variable's name",
    ),
    "the chart's own listener": (
        {"config": {"listen": "0.0.0.0:80"}},
        "config.listen: is set by the chart; set service.port",
    ),
    "the chart's own cluster": ({"config": {"cluster": {"dns": "a:1"}}}, "config.cluster: is set by the chart"),
    "the chart's own disks": (
        {"config": {"cache": {"disks": []}}},
        "config.cache.disks: is set by the chart; set cache.disks",
    ),
    "the chart's own drain": (
        {"config": {"limits": {"drain_timeout": "5m"}}},
        "config.limits.drain_timeout: is set by the chart",
    ),
    "one port twice": ({"service": {"controlPort": 9000}}, "service.controlPort: 9000 is also service.port"),
    "two ways onto the node": (
        {"hostNetwork": True, "hostPort": {"enabled": True}},
        "hostPort.enabled: is true, but hostNetwork already opens",
    ),
    "an authority without a certificate": ({"tls": {"ca": "ca.crt"}}, "tls.ca: is a key in tls.existingSecret"),
    "an object without a key": (
        {"test": {"object": "bucket"}},
        'test.object: "bucket" is not an object; write bucket/key',
    ),
}

BY_SCHEMA: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt value": ({"hostPrt": {}}, "additional properties 'hostPrt' not allowed"),
    "a misspelt key of the configuration": (
        {"config": {"origins": {"lab": {"type": "s3", "endpiont": "http://lab"}}}},
        "at '/config/origins/lab': additional properties 'endpiont' not allowed",
    ),
    "a size in the configuration": (
        {"config": {"limits": {"fill_bytes": "20G"}}},
        "at '/config/limits/fill_bytes': '20G'",
    ),
    "an origin of no type": ({"config": {"origins": {"lab": {"type": "ftp"}}}}, "at '/config/origins/lab/type'"),
    "a port of the system": ({"service": {"port": 80}}, "at '/service/port': minimum: got 80"),
    "root": ({"user": {"id": 0}}, "at '/user/id': minimum: got 0, want 1"),
    "no disk": ({"cache": {"disks": []}}, "at '/cache/disks'"),
    "no workers": ({"config": {"workers": 0}}, "at '/config/workers': minimum: got 0, want 1"),
    "all nodes at once, misspelt": (
        {"updateStrategy": {"maxUnavailable": "half"}},
        "at '/updateStrategy/maxUnavailable'",
    ),
}


@pytest.mark.parametrize("case", BY_SENTENCE)
def test_the_chart_says_what_is_wrong_and_what_to_write(case: str) -> None:
    values, sentence = BY_SENTENCE[case]
    with pytest.raises(Refused) as refused:
        render(**values)
    assert sentence in str(refused.value)


@pytest.mark.parametrize("case", BY_SCHEMA)
def test_the_schema_names_the_value(case: str) -> None:
    values, sentence = BY_SCHEMA[case]
    with pytest.raises(Refused) as refused:
        render(**values)
    assert sentence in str(refused.value)
