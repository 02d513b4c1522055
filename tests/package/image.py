"""The image without a container engine: the Dockerfile's steps, run in a folder, and its command in a mount namespace.

How it works. Each RUN of the first stage is run as it stands, with the image's paths moved below one folder, on a copy
of the files that the build's context would hold. The base image's Python is this one; where other users can't reach
it, a copy. A container is process 1 of namespaces of its own, in which the whole file system is read-only, /dev/shm
too, but for the cache; it has the image's variables, nothing of this environment, and a user without rights.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.package.locks import ROOT
from tests.package.recipe import Stage, in_context, read_stages

# Paths of the image, each below the folder here. Longer ones first: no path is inside an earlier one.
PLACES = ("/opt/warmstart", "/opt/build", "/wheel", "/var/cache")

# Mounts and processes of its own: the command is process 1. --kill-child: it dies with this program.
_APART = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child")
# Everything read-only, then the rights given up. $1 is the cache, $2 and $3 user and group; the rest is the command.
_CONTAIN = """
set -e
mount --bind "$1" "$1"
mount -t tmpfs -o ro none /dev/shm
mount -o remount,ro,bind /
user=$2 group=$3; shift 3; cd /
exec setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def why_not() -> str | None:
    """The reason that this machine can't run the image's steps; None where it can."""
    if os.geteuid() != 0:
        return "only root can give a process a read-only file system and another user"
    if not shutil.which("unshare") or not shutil.which("setpriv"):
        return "unshare and setpriv (util-linux) are not installed"
    tried = subprocess.run([*_APART, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    return "this machine lets nobody make namespaces" if tried.returncode else None


@dataclass(frozen=True, slots=True)
class Image:
    """A built image below `root`, which every user can read."""

    root: Path
    final: Stage
    libraries: Path | None  # of a copied Python, which looks for its own where it was built

    @property
    def cache(self) -> Path:
        return self.root / "var/cache"

    @property
    def python(self) -> Path:
        return self.root / "opt/warmstart/bin/python"

    @property
    def user(self) -> str:
        return self.final.last("USER").text

    def place(self, text: str) -> str:
        """The image's paths in it, moved to where they lie here."""
        return re.sub("|".join(PLACES), lambda found: str(self.root) + found[0], text)

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """What a container starts with: the image's variables and the given ones. No HOME, as for an unknown user."""
        base = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        stated = {key: self.place(value) for key, value in self.final.pairs("ENV").items()}
        libraries = {"LD_LIBRARY_PATH": str(self.libraries)} if self.libraries is not None else {}
        return {**stated, **libraries, "PATH": stated["PATH"].replace("$PATH", base), **given}

    def contain(self, command: Sequence[str], user: str) -> list[str]:
        """The command line that runs `command` as in a container, in `environment`."""
        uid, _, gid = user.partition(":")
        return [*_APART, "sh", "-c", _CONTAIN, "-", str(self.cache), uid, gid, *command]

    def installed(self) -> dict[str, str]:
        """The packages in it and their versions."""
        asked = "import importlib.metadata as m\nfor d in m.distributions(): print(d.metadata['Name'], d.version)"
        listed = subprocess.run([self.python, "-I", "-c", asked], check=True, capture_output=True, text=True).stdout
        return dict(line.split() for line in listed.splitlines())


def build_image(root: Path) -> Image:
    """Run the steps of the Dockerfile's first stage, and make what its second does."""
    _, (build, final) = read_stages()
    python, libraries = _everybodys_python(root)
    image = Image(root, final, libraries)
    source = root / "src"
    source.mkdir()
    for name in build.copies():
        _copy_from_context(name, source / name)
    stated = build.pairs("ENV")
    environment = {**os.environ, **stated, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    for name in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    for step in build.all("RUN"):
        subprocess.run(["sh", "-ec", image.place(step.text)], cwd=source, env=environment, check=True)
    shutil.rmtree(root / "opt/build")
    uid, gid = map(int, image.user.split(":"))
    image.cache.mkdir(parents=True)
    os.chown(image.cache, uid, gid)
    return image


def _copy_from_context(name: str, to: Path) -> None:
    source = ROOT / name
    if source.is_file():
        shutil.copyfile(source, to)
        return

    def hidden(folder: str, names: list[str]) -> list[str]:
        return [entry for entry in names if not in_context(str((Path(folder) / entry).relative_to(ROOT)))]

    shutil.copytree(source, to, ignore=hidden)


def _everybodys_python(root: Path) -> tuple[Path, Path | None]:
    """The Python below this virtual environment, or a copy and its libraries where its folder is closed to others."""
    prefix = Path(sys.base_prefix)
    if all(folder.stat().st_mode & 0o005 == 0o005 for folder in (prefix, *prefix.parents)):
        return prefix / "bin/python3", None
    copy = root / "python"
    others = shutil.ignore_patterns("__pycache__", "test", "tests", "idlelib", "*.a", "share")
    shutil.copytree(prefix, copy, symlinks=True, ignore=others)
    return copy / "bin/python3", copy / "lib"
