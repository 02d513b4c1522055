"""The Helm chart as a cluster would see it: rendered, its pods' variables and files resolved as the kubelet does.

Needs the program `helm`, beside Python in the virtual environment or on the path; tests of a chart are skipped, with
a reason, where it is missing.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import kubernetes_validate
import pytest
import yaml

from tests.tidy.sources import ROOT

CHART = ROOT / "helm/warmstart"
VALUE_SETS = tuple(sorted((ROOT / "helm/values").glob("*.yaml")))
# The oldest that the chart takes, and the newest whose schemas are at hand.
KUBERNETES = ("1.30.0", kubernetes_validate.latest_version())
NAMESPACE = "models"
POD_IP, POD_IPV6 = "10.1.2.3", "fd00::7"

Manifest: TypeAlias = dict[str, Any]

HELM = shutil.which("helm", path=str(Path(sys.executable).parent)) or shutil.which("helm")
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed (.ci/run shows how)")


class Refused(Exception):
    """What helm said when it would not render."""


def run_helm(*arguments: str) -> str:
    """Standard output; raises Refused with what was printed when it fails."""
    assert HELM is not None
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


@dataclass(frozen=True, slots=True)
class Release:
    """What one set of values makes."""

    manifests: tuple[Manifest, ...]

    def all(self, kind: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] == kind]

    def one(self, kind: str, name: str = "warmstart") -> Manifest:
        (found,) = (manifest for manifest in self.all(kind) if manifest["metadata"]["name"] == name)
        return found

    def pod(self) -> Manifest:
        """The spec of the gateways' pods."""
        spec: Manifest = self.one("DaemonSet")["spec"]["template"]["spec"]
        return spec

    def gateway(self) -> Manifest:
        (container,) = self.pod()["containers"]
        return dict(container)

    def configuration(self) -> Manifest:
        loaded: Manifest = yaml.safe_load(self.one("ConfigMap")["data"]["warmstart.yaml"])
        return loaded

    def secrets(self) -> dict[str, dict[str, str]]:
        """Decoded, by name and key."""
        found: dict[str, dict[str, str]] = {}
        for secret in self.all("Secret"):
            decoded = {key: base64.b64decode(value).decode() for key, value in secret.get("data", {}).items()}
            found[secret["metadata"]["name"]] = decoded | secret.get("stringData", {})
        return found

    def environment(self, secrets: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, str]:
        """The gateway's variables as the kubelet would set them; `secrets` are those that the chart does not make."""
        known = {**self.secrets(), **(secrets or {})}
        container = self.gateway()
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= dict(known[source["secretRef"]["name"]])
        for variable in container["env"]:
            match variable:
                case {"value": str(value)}:
                    found[variable["name"]] = value
                case {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}:
                    found[variable["name"]] = known[name][key]
                case {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}:
                    listens_on_ipv6 = str(self.configuration()["listen"]).startswith("[")
                    found[variable["name"]] = POD_IPV6 if listens_on_ipv6 else POD_IP
                case _:
                    found[variable["name"]] = "from-a-label"
        return found


def render(*files: Path, **values: Any) -> Release:
    """The release `warmstart` in the namespace `models`; `values` are top-level ones, laid over the files."""
    return Release(tuple(_rendered(CHART, *_arguments(files, values))))


def render_notes(folder: Path, *files: Path, **values: Any) -> str:
    """NOTES.txt, which `helm template` leaves out, by a copy of the chart that has it in a manifest."""
    chart = folder / "chart"
    shutil.copytree(CHART, chart, dirs_exist_ok=True)
    (chart / "templates/NOTES.txt").replace(chart / "notes")
    (chart / "templates/notes.yaml").write_text(
        'kind: Notes\nnotes: |\n  {{- tpl (.Files.Get "notes") . | nindent 2 }}\n'
    )
    (notes,) = Release(tuple(_rendered(chart, *_arguments(files, values)))).all("Notes")
    return str(notes["notes"])


def validate(manifest: Manifest, version: str) -> None:
    """By the schemas of that release of Kubernetes, unknown fields refused; raises ValidationError."""
    _validate_text(json.dumps(manifest), version)


@cache  # most manifests are alike from one set of values to the next
def _validate_text(manifest: str, version: str) -> None:
    kubernetes_validate.validate(json.loads(manifest), version, strict=True)


@cache
def render_set(name: str) -> Release:
    """Of one file of helm/values, or of no values at all: `defaults`."""
    return render() if name == "defaults" else render(ROOT / f"helm/values/{name}.yaml")


def _arguments(files: Iterable[Path], values: Mapping[str, Any]) -> Iterator[str]:
    for file in files:
        yield from ("--values", str(file))
    for key, value in values.items():
        yield from ("--set-json", f"{key}={json.dumps(value)}")


def _rendered(chart: Path, *arguments: str) -> Iterator[Manifest]:
    # A helm that was built from its source takes itself to be as old as Kubernetes 1.20 when there is no cluster.
    place = ("--namespace", NAMESPACE, "--kube-version", KUBERNETES[-1])
    for manifest in yaml.safe_load_all(run_helm("template", "warmstart", str(chart), *place, *arguments)):
        if manifest is not None:
            yield manifest
