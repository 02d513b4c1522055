"""The chart, rendered with every set of values that it ships: what Kubernetes gets, and what the gateway reads."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.__main__ import main
from tests.fakes.certificates import make_certificates
from tests.package import chart_schema
from tests.package.charts import (
    CHART,
    KUBERNETES,
    VALUE_SETS,
    Release,
    needs_helm,
    render,
    render_notes,
    render_set,
    run_helm,
    validate,
)
from tests.tidy.sources import ROOT

SETS = ("defaults", *(path.stem for path in VALUE_SETS))
EVERY_SET = pytest.mark.parametrize("name", SETS)
# What a user has made before the chart is installed.
THEIR_SECRETS = {
    "models-redis": {"url": "rediss://user:hush-password@redis.example.net:6380/0"},
    "warmstart-fleet": {"secret": "hush-hush-hush-hush"},
    "store-keys": {
        "WARMSTART_ORIGINS__STORE__ACCESS_KEY_ID": "an-id",
        "WARMSTART_ORIGINS__STORE__SECRET_ACCESS_KEY": "hush",
    },
}


def check(release: Release, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """`warmstart config check` in the gateway's place: its variables, and its files below `folder`."""
    for variable, value in release.environment(THEIR_SECRETS).items():
        monkeypatch.setenv(variable, value)
    made = make_certificates(folder)
    text = release.one("ConfigMap")["data"]["warmstart.yaml"]
    for name, file in (("tls.crt", made.server_file), ("tls.key", made.key_file), ("ca.crt", made.ca_file)):
        text = text.replace(f"/etc/warmstart-tls/{name}", str(file))
    (folder / "goog.json").write_text('{"type": "service_account"}')
    (folder / "warmstart.yaml").write_text(text.replace("/etc/keys/", f"{folder}/"), "utf-8")
    monkeypatch.delenv("WARMSTART_CONFIG")
    return main(["config", "check", str(folder / "warmstart.yaml")])


def containers(release: Release) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every container with its pod."""
    for manifest in release.manifests:
        pod = (
            manifest["spec"] if manifest["kind"] == "Pod" else manifest.get("spec", {}).get("template", {}).get("spec")
        )
        for container in [*pod.get("initContainers", []), *pod["containers"]] if pod else []:
            yield container, pod


def test_there_are_value_sets_for_at_least_ten_kinds_of_deployment_and_each_says_when_to_use_it() -> None:
    assert len(SETS) >= 10
    assert not [path.name for path in VALUE_SETS if not path.read_text("utf-8").startswith("# ")]


@needs_helm
@EVERY_SET
def test_lint_has_nothing_to_say(name: str) -> None:
    files = [] if name == "defaults" else ["--values", str(ROOT / f"helm/values/{name}.yaml")]
    run_helm("lint", "--strict", str(CHART), *files)


@needs_helm
@pytest.mark.parametrize("version", KUBERNETES)
@EVERY_SET
def test_kubernetes_knows_every_manifest(name: str, version: str) -> None:
    for manifest in render_set(name).manifests:
        validate(manifest, version)


@needs_helm
@EVERY_SET
def test_the_gateway_accepts_its_configuration(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(render_set(name), tmp_path, monkeypatch) == 0


@needs_helm
@EVERY_SET
def test_nothing_runs_with_more_rights_than_it_needs(name: str) -> None:
    for container, pod in containers(render_set(name)):
        rights = pod["securityContext"] | container["securityContext"]
        assert not rights["allowPrivilegeEscalation"]
        assert rights["readOnlyRootFilesystem"]
        assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        if container["name"] == "prepare":
            assert rights["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "FOWNER"]}
        else:
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert rights["runAsNonRoot"]
            assert rights["runAsUser"] > 0


@needs_helm
@EVERY_SET
def test_mounts_name_volumes_that_are_there_and_never_lie_in_one_another(name: str) -> None:
    for container, pod in containers(render_set(name)):
        volumes = {volume["name"] for volume in pod["volumes"]}
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert not [(one, two) for one in paths for two in paths if two.startswith(f"{one}/")]


@needs_helm
@EVERY_SET
def test_selectors_meet_the_pods_they_are_for(name: str) -> None:
    release = render_set(name)
    pods = [manifest["spec"]["template"] for kind in ("DaemonSet", "StatefulSet") for manifest in release.all(kind)]
    labels = [pod["metadata"]["labels"] for pod in pods]
    selectors = [service["spec"]["selector"] for service in release.all("Service")]
    selectors += [policy["spec"]["podSelector"]["matchLabels"] for policy in release.all("NetworkPolicy")]
    for selector in selectors:
        assert len([True for found in labels if selector.items() <= found.items()]) == 1


@needs_helm
def test_no_secret_is_in_anything_but_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "credentials": {
            "s3": {"access_key_id": "hush-id", "secret_access_key": "hush-key", "session_token": "hush-token"}
        },
        "cluster": {"secret": ["hush-new-hush-new", "hush-old-hush-old"]},
        "redis": {"url": "redis://user:hush-redis@redis:6379/0"},
    }
    release = render(**values)
    assert "hush" not in json.dumps([manifest for manifest in release.manifests if manifest["kind"] != "Secret"])
    assert release.environment() | {"POD_IP": ""} == {
        "WARMSTART_CONFIG": "/etc/warmstart/warmstart.yaml",
        "POD_IP": "",
        "WARMSTART_CLUSTER__SECRET": '["hush-new-hush-new","hush-old-hush-old"]',
        "WARMSTART_CLUSTER__REDIS": "redis://user:hush-redis@redis:6379/0",
        "WARMSTART_ORIGINS__S3__ACCESS_KEY_ID": "hush-id",
        "WARMSTART_ORIGINS__S3__SECRET_ACCESS_KEY": "hush-key",
        "WARMSTART_ORIGINS__S3__SESSION_TOKEN": "hush-token",
    }
    assert check(release, tmp_path, monkeypatch) == 0


@needs_helm
def test_a_secret_that_nobody_gave_is_made_up_and_stays_out_of_the_rest() -> None:
    one, two = render(redis={"enabled": True}), render(redis={"enabled": True})
    made_up = one.secrets()["warmstart"]
    assert len(made_up["cluster-secret"]) == len(made_up["redis-password"]) == 40
    assert made_up["cluster-secret"] != two.secrets()["warmstart"]["cluster-secret"]
    assert made_up["redis-url"] == f"redis://warmstart:{made_up['redis-password']}@warmstart-redis.models.svc:6379/0"
    assert (
        f"user warmstart on >{made_up['redis-password']} ~models.warmstart:* "
        in one.secrets()["warmstart-redis"]["redis.conf"]
    )
    rest = json.dumps([manifest for manifest in one.manifests if manifest["kind"] != "Secret"])
    assert not [value for value in made_up.values() if value in rest]


@needs_helm
def test_what_is_made_up_does_not_roll_the_pods_and_what_is_given_does() -> None:
    def checksums(**values: Any) -> dict[str, str]:
        annotations: dict[str, str] = render(**values).one("DaemonSet")["spec"]["template"]["metadata"]["annotations"]
        return annotations

    before = checksums()
    assert before == checksums()
    assert checksums(config={"workers": 3})["checksum/config"] != before["checksum/config"]
    keys = {"s3": {"access_key_id": "a", "secret_access_key": "b"}}
    assert checksums(credentials=keys)["checksum/secret"] != before["checksum/secret"]
    assert checksums(cluster={"secret": "s" * 16})["checksum/secret"] != before["checksum/secret"]


@needs_helm
def test_without_values_all_buckets_are_read_from_aws_and_nothing_is_written() -> None:
    configuration = render_set("defaults").configuration()
    assert configuration["origins"] == {"s3": {"type": "s3"}}
    assert configuration["buckets"] == {"*": {"origin": "s3"}}
    assert configuration["writes"] == "deny"


@needs_helm
def test_origins_that_are_given_replace_the_default_one() -> None:
    configuration = render_set("gke-workload-identity").configuration()
    assert configuration["origins"] == {"goog": {"type": "gcs", "project": "my-project"}}
    assert configuration["buckets"] == {"*": {"origin": "goog"}}


@needs_helm
def test_a_pod_reaches_the_gateway_of_its_own_node_and_gateways_reach_all() -> None:
    release = render_set("defaults")
    assert release.one("Service")["spec"]["internalTrafficPolicy"] == "Local"
    assert release.one("Service", "warmstart-peers")["spec"]["clusterIP"] == "None"
    assert release.configuration()["cluster"]["dns"] == "warmstart-peers.models.svc:9000"
    assert release.environment()["POD_IP"] == "10.1.2.3"


@needs_helm
@EVERY_SET
def test_a_pod_may_take_longer_to_end_than_its_bodies(name: str) -> None:
    release = render_set(name)
    drain = re.fullmatch(r"(\d+)s", release.configuration()["limits"]["drain_timeout"])
    assert drain
    before = release.gateway()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert release.pod()["terminationGracePeriodSeconds"] >= before + int(drain[1]) + 10


@needs_helm
def test_probes_ask_what_they_are_for_over_the_listeners_own_scheme() -> None:
    for name, scheme in (("defaults", "HTTP"), ("tls", "HTTPS")):
        gateway = render_set(name).gateway()
        paths = {
            probe: gateway[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
        }
        assert paths == {
            "startupProbe": "/-/health",
            "livenessProbe": "/-/health",
            "readinessProbe": "/-/ready",
        }
        assert {gateway[probe]["httpGet"]["scheme"] for probe in paths} == {scheme}


@needs_helm
def test_what_changes_with_every_request_is_never_written_to_a_disk() -> None:
    (volume,) = (volume for volume in render_set("defaults").pod()["volumes"] if volume["name"] == "tmp")
    assert volume["emptyDir"]["medium"] == "Memory"


@needs_helm
def test_only_gateways_may_ask_gateways_and_redis() -> None:
    release = render(redis={"enabled": True})
    ours = {"app.kubernetes.io/name": "warmstart", "app.kubernetes.io/component": "gateway"}
    clients, peers = release.one("NetworkPolicy")["spec"]["ingress"]
    assert clients == {"ports": [{"protocol": "TCP", "port": 9000}], "from": [{"namespaceSelector": {}}]}
    assert [port["port"] for port in peers["ports"]] == [9000, 9001]
    redis = release.one("NetworkPolicy", "warmstart-redis")["spec"]
    assert redis["egress"] == []
    for rule in (peers, *redis["ingress"]):
        (peer,) = rule["from"]
        assert ours.items() <= peer["podSelector"]["matchLabels"].items()


@needs_helm
def test_clients_that_are_named_are_let_in_and_so_is_the_charts_own_test() -> None:
    named = {"namespaceSelector": {"matchLabels": {"team": "models"}}}
    release = render(networkPolicy={"clients": [named]})
    (clients, _) = release.one("NetworkPolicy")["spec"]["ingress"]
    test = clients["from"][1]["podSelector"]["matchLabels"]
    assert clients["from"][0] == named
    assert test.items() <= release.one("Pod", "warmstart-test")["metadata"]["labels"].items()


@needs_helm
def test_a_nodes_gateway_may_wait_for_its_update() -> None:
    strategy = render(updateStrategy={"type": "OnDelete"}).one("DaemonSet")["spec"]["updateStrategy"]
    assert strategy == {"type": "OnDelete"}


@needs_helm
def test_clients_from_the_nodes_are_let_in_where_a_host_port_is_open() -> None:
    (clients, _) = render(hostPort={"enabled": True}).one("NetworkPolicy")["spec"]["ingress"]
    assert "from" not in clients
    assert render_set("host-network").all("NetworkPolicy")[0]["metadata"]["name"] == "warmstart-redis"
    assert "from" not in render_set("host-network").one("NetworkPolicy", "warmstart-redis")["spec"]["ingress"][0]


@needs_helm
def test_everything_that_can_be_off_is_off_in_the_bare_set() -> None:
    kinds = sorted(manifest["kind"] for manifest in render_set("bare").manifests)
    assert kinds == ["ConfigMap", "DaemonSet", "Pod", "Service"]


@needs_helm
def test_files_of_values_may_be_combined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("s3-store", "redis", "several-disks", "gpu-nodes", "zones")
    release = render(*(ROOT / f"helm/values/{name}.yaml" for name in names))
    for manifest in release.manifests:
        validate(manifest, KUBERNETES[-1])
    assert check(release, tmp_path, monkeypatch) == 0
    assert len(release.configuration()["cache"]["disks"]) == 4


@needs_helm
def test_names_stay_within_what_kubernetes_allows() -> None:
    release = render(fullnameOverride="a" * 63, nameOverride="b" * 63, redis={"enabled": True})
    names = [manifest["metadata"]["name"] for manifest in release.manifests]
    values = [value for manifest in release.manifests for value in manifest["metadata"]["labels"].values()]
    assert max(map(len, [*names, *values])) <= 63


@needs_helm
def test_two_releases_on_one_redis_keep_their_keys_apart() -> None:
    url = {"url": "redis://redis.example.net/0"}
    assert render(redis=url).configuration()["cluster"]["prefix"] == "models.warmstart"
    named = render(redis=url, cluster={"prefix": "shared"}).configuration()
    assert named["cluster"]["prefix"] == "shared"


@needs_helm
def test_sizes_and_numbers_reach_the_configuration_as_they_were_written() -> None:
    limits = {"fill_bytes": 268435456, "metadata_entries": 1000000, "send_timeout": "5m"}
    configuration = render(config={"limits": limits, "workers": 12}).configuration()
    assert configuration["limits"] == limits | {"drain_timeout": "30s"}
    assert configuration["workers"] == 12


@needs_helm
@EVERY_SET
def test_notes_name_the_address_and_what_to_look_at(name: str, tmp_path: Path) -> None:
    files = [] if name == "defaults" else [ROOT / f"helm/values/{name}.yaml"]
    notes = render_notes(tmp_path, *files)
    port = render_set(name).one("Service")["spec"]["ports"][0]["port"]
    scheme = "https" if name == "tls" else "http"
    assert f'{{name: AWS_ENDPOINT_URL, value: "{scheme}://warmstart.models.svc:{port}"}}' in notes
    assert "kubectl -n models rollout status daemonset/warmstart" in notes
    (selected,) = re.findall(r"-c prepare -l (\S+)$", notes, re.M)
    labels = render_set(name).one("DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert dict(part.split("=") for part in selected.split(",")).items() <= labels.items()


@needs_helm
def test_notes_warn_of_an_image_without_a_registry(tmp_path: Path) -> None:
    assert "WARNING: image.repository is warmstart, without a registry" in render_notes(tmp_path)
    assert "WARNING" not in render_notes(tmp_path, image={"repository": "registry.example.net/warmstart"})


@needs_helm
def test_the_pods_security_context_may_be_given_more() -> None:
    label = {"seLinuxOptions": {"type": "spc_t"}}
    release = render(podSecurityContext=label, redis={"enabled": True})
    redis = release.one("StatefulSet", "warmstart-redis")["spec"]["template"]["spec"]
    for pod in (release.pod(), redis, release.one("Pod", "warmstart-test")["spec"]):
        assert pod["securityContext"]["seLinuxOptions"] == label["seLinuxOptions"]
        assert pod["securityContext"]["runAsNonRoot"] is True


@needs_helm
def test_the_image_of_redis_may_be_pinned_by_digest() -> None:
    digest = "sha256:" + "5" * 64
    redis = render(redis={"enabled": True, "image": {"digest": digest}}).one("StatefulSet", "warmstart-redis")
    (container,) = redis["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"docker.io/valkey/valkey@{digest}"


@needs_helm
def test_notes_say_who_can_read_what(tmp_path: Path) -> None:
    def who(**values: Any) -> str:
        told = re.search(r"^Who can read what:\n(.*?)^The credentials", render_notes(tmp_path, **values), re.M | re.S)
        assert told
        return " ".join(told[1].split())

    everything = "can read everything that the gateways' own credentials can read, from s3 (s3)"
    pods = "every pod in this cluster, in any namespace (set networkPolicy.clients to limit that)"
    assert who() == f"- {pods} - {everything} in any bucket - and can write nothing."
    assert who(networkPolicy={"enabled": False}).startswith("- anybody who can connect to the pods")
    assert who(hostNetwork=True).startswith("- anybody who can connect to the nodes")
    assert who(config={"writes": "through"}).endswith("- and can write there, with those credentials.")
    assert " in any bucket - " in who(config={"buckets": {"*": {"origin": "s3"}}})
    buckets = {"a": {"origin": "s3"}, "b": {"origin": "s3", "writes": "through"}}
    assert who(config={"buckets": buckets}).endswith("in the buckets a, b - and can write nothing, except in b.")


def test_the_schema_of_the_values_follows_the_settings() -> None:
    assert chart_schema.SCHEMA.read_text("utf-8") == chart_schema.render(), "run: python -m tests.package.chart_schema"


def test_the_page_on_kubernetes_leads_to_every_file_of_values() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text("utf-8")
    assert not [path.name for path in VALUE_SETS if f"(../helm/values/{path.name})" not in page]


def test_every_value_has_a_schema_and_every_schema_a_value() -> None:
    def differences(values: Any, schema: dict[str, Any], path: str) -> Iterator[str]:
        if "properties" in schema and schema.get("additionalProperties") is False and isinstance(values, dict):
            known = schema["properties"]
            yield from (f"{path}{key}" for key in values.keys() ^ known.keys())
            for key in values.keys() & known.keys():
                yield from differences(values[key], known[key], f"{path}{key}.")

    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    schema = json.loads(chart_schema.SCHEMA.read_text("utf-8"))
    assert list(differences(values, schema, "")) == ["global"]


def test_the_chart_has_the_version_of_what_it_installs() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    assert chart["appVersion"] == version
