"""The Dockerfile keeps what it promises: pinned, locked, small, not root, nothing to download with."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

from tests.package.locks import ROOT, locks
from tests.package.recipe import DOCKERFILE, in_context, read_stages

ARGUMENTS, STAGES = read_stages()
BUILD, FINAL = STAGES
_COMPILED = shutil.ignore_patterns("__pycache__")


def test_every_stage_stands_on_one_base_that_is_pinned_by_version_and_digest() -> None:
    assert {stage.base for stage in STAGES} == {"${PYTHON_IMAGE}"}
    pinned = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-[a-z]+@sha256:[0-9a-f]{64}", ARGUMENTS["PYTHON_IMAGE"])
    assert pinned
    assert locks()[0].requires_python == f">={pinned[1]}"


def test_the_final_stage_gets_the_environment_and_nothing_else() -> None:
    assert BUILD.name == "build"
    assert not FINAL.copies()
    assert [step.text for step in FINAL.all("COPY")] == ["--from=build /opt/warmstart /opt/warmstart"]
    assert not FINAL.all("ADD") + BUILD.all("ADD")


def test_dependencies_come_from_the_locks_by_hash_and_as_wheels() -> None:
    installs = [
        command
        for step in BUILD.all("RUN")
        for command in step.text.split(" && ")
        if re.search(r"-m pip .*\binstall\b", command)
    ]
    assert len(installs) == 3
    for lock in locks():
        assert any("--require-hashes --only-binary :all:" in line and f"-r {lock.name}" in line for line in installs)
    assert "--no-deps --no-index /wheel/*.whl" in installs[-1]


def test_nothing_is_downloaded_but_by_pip() -> None:
    text = " ".join(step.text for stage in STAGES for step in stage.steps)
    assert not re.findall(r"\b(curl|wget|apt|apt-get|apk|git|uv)\b|https?://", text)


def test_what_is_copied_exists_and_is_in_the_builds_context() -> None:
    sources = BUILD.copies()
    assert {"proxy", "s3api", "gcsapi", "pyproject.toml", "README.md", "LICENSE"} < set(sources)
    assert not [source for source in sources if not (ROOT / source).exists() or not in_context(source)]


def test_the_builds_context_is_only_what_is_copied() -> None:
    assert in_context("proxy/cache/store.py")
    assert not any(map(in_context, (".git", ".venv", "cache", "tests", "docs", "proxy/__pycache__", "configs/a.yaml")))
    assert all(any(entry == source for source in BUILD.copies()) for entry in _let_in())


def _let_in() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


def test_the_locks_are_copied_before_the_code() -> None:
    """So that a change of the code finds the dependencies' layer made."""
    sources = BUILD.copies()
    assert {lock.name for lock in locks()} == set(sources[:2])
    assert sources.index("proxy") > 2


def test_pythons_own_library_is_compiled_in_the_image_for_nothing_can_be_written_there_later(tmp_path: Path) -> None:
    """By the line itself, over a copy of some of this Python's library."""
    (line,) = (step.text for step in FINAL.all("RUN") if "compileall" in step.text)
    library = tmp_path / "python3.11"
    for name in ("json", "idlelib"):
        shutil.copytree(Path(sysconfig.get_path("stdlib")) / name, library / name, ignore=_COMPILED)
    (library / "site-packages").mkdir()
    (library / "site-packages" / "dependency.py").touch()
    text = line.replace("python -m", f"{sys.executable} -m").replace("$(python -c", f"$({sys.executable} -c")
    text = re.sub(r'"\$\(.*\)"', str(library), text)
    subprocess.run(["sh", "-c", text], check=True)
    compiled = {path.parent.parent.relative_to(library).as_posix() for path in library.rglob("*.pyc")}
    assert compiled == {"json"}
    flags = int.from_bytes(
        (library / f"json/__pycache__/decoder.{sys.implementation.cache_tag}.pyc").read_bytes()[4:8], "little"
    )
    assert flags == 0b01  # by hash, and never checked: PEP 552


def test_it_runs_as_a_numbered_user_who_owns_the_cache() -> None:
    user, group = FINAL.last("USER").text.split(":")
    assert int(user) >= 10000
    assert int(group) >= 10000
    assert FINAL.last("VOLUME").text == "/var/cache/warmstart"
    made = FINAL.all("RUN")[0].text
    assert f"--uid {user}" in made
    assert f"install --directory --owner={user} --group={group} --mode=0700 /var/cache/warmstart" in made
    order = [step.word for step in FINAL.steps]
    assert order.index("USER") > max(index for index, word in enumerate(order) if word in ("RUN", "COPY"))


def test_no_setting_is_baked_in_that_a_configuration_file_could_not_change() -> None:
    """Variables win over the file: WARMSTART_LISTEN in the image would overrule every mounted one."""
    assert not [name for name in FINAL.pairs("ENV") if name.startswith("WARMSTART_")]
    assert FINAL.pairs("ENV")["XDG_CACHE_HOME"] == "/var/cache"


def test_it_starts_the_gateway_and_is_checked_by_its_own_command() -> None:
    assert FINAL.last("ENTRYPOINT").words() == ["warmstart"]
    assert FINAL.last("CMD").words() == ["serve"]
    assert FINAL.last("HEALTHCHECK").text.endswith('CMD ["warmstart", "health"]')
    assert FINAL.last("STOPSIGNAL").text == "SIGTERM"


def test_the_labels_say_what_it_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in FINAL.pairs("LABEL").items()}
    assert labels["title"] == project["name"]
    assert labels["description"] == project["description"]
    assert labels["licenses"] == project["license"]
    assert FINAL.pairs("ARG")["VERSION"] == project["version"]
    assert {"version", "revision", "base.name"} < set(labels)


def test_the_file_asks_no_other_place_for_its_own_syntax() -> None:
    assert not DOCKERFILE.read_text("utf-8").startswith("# syntax=")
