"""The example pods: known to Kubernetes, and led to the gateway of their node by environment variables alone.

A pod inside a resource of KServe's or KubeRay's is checked as a pod, since their own schemas are not at hand.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.gateways import GatewayProcess, start_gateway
from tests.package.charts import CHART, KUBERNETES, Manifest, needs_helm, run_helm, validate
from tests.tidy.sources import ROOT

EXAMPLES = tuple(sorted((ROOT / "configs/kubernetes").glob("*.yaml")))
EVERY_EXAMPLE = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
OF_KSERVE = ("modelFormat", "storageUri", "runtime", "protocolVersion")
# What an SDK asks for a URL with, and no more than that.
READ = "import boto3; print(boto3.client('s3').get_object(Bucket='models', Key='config.json')['Body'].read().decode())"


def manifests(path: Path) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(path.read_text("utf-8")) if manifest is not None]


def pod_specs(manifest: Manifest) -> Iterator[Manifest]:
    """The specs of all pods that a manifest stands for."""
    match manifest:
        case {"kind": "InferenceService", "spec": {"predictor": predictor}}:
            pod = copy.deepcopy(predictor)
            model = {key: value for key, value in pod.pop("model").items() if key not in OF_KSERVE}
            yield pod | {"containers": [{"name": "kserve-container", "image": "of-the-runtime"} | model]}
        case {"kind": "RayService", "spec": {"rayClusterConfig": cluster}}:
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                yield group["template"]["spec"]
        case {"spec": {"template": {"spec": spec}}}:
            yield spec


def environments(path: Path) -> list[dict[str, str]]:
    """The variables of every container; for KServe those that it makes of the Secret for its storage initializer."""
    found = []
    for manifest in manifests(path):
        if manifest["kind"] == "Secret":
            told = {
                key.removeprefix("serving.kserve.io/s3-"): value
                for key, value in manifest["metadata"]["annotations"].items()
            }
            scheme = "http" if told["usehttps"] == "0" else "https"
            keys = manifest["stringData"]
            made = {"AWS_ENDPOINT_URL": f"{scheme}://{told['endpoint']}", "AWS_DEFAULT_REGION": told["region"]}
            made |= {"AWS_ACCESS_KEY_ID": keys["awsAccessKeyID"], "AWS_SECRET_ACCESS_KEY": keys["awsSecretAccessKey"]}
            found.append(made)
        for pod in pod_specs(manifest):
            containers: list[dict[str, Any]] = pod["containers"]
            found += [
                {one["name"]: one["value"] for one in container["env"]}
                for container in containers
                if "env" in container
            ]
    return found


def gateway_of(environment: dict[str, str]) -> str:
    """Where a pod's client connects. Triton has it in the repository's address: s3://http://host:port/bucket/path"""
    repository = environment.get("MODEL_REPOSITORY", "").removeprefix("s3://")
    return environment.get("AWS_ENDPOINT_URL") or "/".join(repository.split("/")[:3])


@pytest.fixture(scope="module")
def service_url() -> str:
    """Of the chart's Service, installed as the README does it."""
    place = ("--namespace", "warmstart", "--kube-version", KUBERNETES[-1], "--show-only", "templates/tests/read.yaml")
    test = yaml.safe_load(run_helm("template", "warmstart", str(CHART), *place))
    return str(test["spec"]["containers"][0]["args"][0])


def test_there_is_an_example_for_each_of_five_servers_and_each_says_when_to_use_it() -> None:
    assert {path.stem for path in EXAMPLES} >= {"vllm", "sglang", "triton", "kserve", "ray-serve"}
    assert not [path.name for path in EXAMPLES if not path.read_text("utf-8").startswith("# ")]


@pytest.mark.parametrize("version", KUBERNETES)
@EVERY_EXAMPLE
def test_kubernetes_knows_every_example(path: Path, version: str) -> None:
    for manifest in manifests(path):
        if manifest["kind"] not in ("InferenceService", "RayService"):
            validate(manifest, version)
        for spec in pod_specs(manifest):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "example"}, "spec": spec}
            validate(pod, version)


@needs_helm
@EVERY_EXAMPLE
def test_an_example_finds_the_service_that_the_chart_makes(path: Path, service_url: str) -> None:
    found = environments(path)
    assert found
    assert {gateway_of(environment) for environment in found} == {service_url}


@EVERY_EXAMPLE
def test_an_example_has_no_credential_but_a_word_to_sign_with(path: Path) -> None:
    for environment in environments(path):
        assert environment["AWS_ACCESS_KEY_ID"] == environment["AWS_SECRET_ACCESS_KEY"] == "any"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("kubernetes")
    (folder / "objects/models").mkdir(parents=True)
    (folder / "objects/models/config.json").write_text("{}")
    with start_gateway(folder, origin=f"file://{folder}/objects") as started:
        yield started


def test_an_sdk_with_the_variables_of_an_example_reads_through_the_gateway(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    different = {tuple(sorted(environment.items())) for path in EXAMPLES for environment in environments(path)}
    for environment in different:
        here = {"AWS_ENDPOINT_URL": gateway.url, "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        command = [sys.executable, "-c", READ]
        done = subprocess.run(command, env=dict(environment) | here, capture_output=True, text=True, timeout=60)
        assert done.stdout == "{}\n", done.stderr
