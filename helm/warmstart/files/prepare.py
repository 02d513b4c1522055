"""Hands cache directories to the gateway's user and checks that their disks are as large as configured.

How it works. It runs as root, once before each start of the gateway, with CHOWN and FOWNER as its only capabilities:
it may change owners, but can't read a directory that is closed to root until it takes that directory over.
A directory that already belongs to the gateway is left as it is. Any other must be empty except for a cache (`v1`)
and a file system's lost+found. A directory with other files is refused before anything is changed: a wrong hostPath
would otherwise cost the node its files. The top changes owner last, so that the next run repeats one that was cut off.

Usage: prepare.py UID GID DIRECTORY=SIZE...
"""

import os
import re
import stat
import sys

UNITS = {"": 1, "b": 1}
for power, letter in enumerate("kmgtp", 1):
    UNITS |= {f"{letter}b": 1000**power, f"{letter}ib": 1024**power, f"{letter}i": 1024**power}
OURS = {"v1", "lost+found"}
# The kubelet evicts pods from a node whose system disk is fuller than this.
FULL_SHARE = 0.85


class Refused(Exception):
    """Raised when the gateway can't start on this disk; says why in one sentence."""


def parse_size(text):
    """Return the bytes in `500GiB`, `1.5TB` or a bare number."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].lower() not in UNITS:
        raise Refused(f"{text!r} is not a size; write a number and its unit, such as 500GiB")
    return int(float(found[1]) * UNITS[found[2].lower()])


def adopt(directory, uid, gid):
    """Gives the directory and the cache in it to uid and gid. Raises Refused if it has other files."""
    owner = os.stat(directory)
    if (owner.st_uid, owner.st_gid) != (uid, gid):
        os.chown(directory, 0, 0)
        os.chmod(directory, 0o700)
        foreign = sorted(set(os.listdir(directory)) - OURS)
        if foreign:
            os.chmod(directory, stat.S_IMODE(owner.st_mode))
            os.chown(directory, owner.st_uid, owner.st_gid)
            names = ", ".join(foreign[:3])
            raise Refused(f"{directory}: has other files in it ({names}); give the cache its own directory")
        if os.path.isdir(f"{directory}/v1") and not os.path.islink(f"{directory}/v1"):
            give_away(f"{directory}/v1", uid, gid)
        os.chown(directory, uid, gid)
        print(f"{directory}: now belongs to user {uid}")
    os.chmod(directory, 0o700)


def give_away(directory, uid, gid):
    """Yield the directory and everything below it, without following links."""
    mode = stat.S_IMODE(os.lstat(directory).st_mode)
    os.chown(directory, 0, 0)
    os.chmod(directory, mode | 0o700)
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            give_away(entry.path, uid, gid)
        else:
            os.chown(entry.path, uid, gid, follow_symlinks=False)
    os.chown(directory, uid, gid)


def check_sizes(sizes):
    """Raises Refused if a disk is smaller than the sizes of all its cache directories together."""
    devices = {}
    for directory, size in sizes.items():
        devices.setdefault(os.stat(directory).st_dev, []).append((directory, size))
    for disks in devices.values():
        names, asked = " and ".join(name for name, _ in disks), sum(size for _, size in disks)
        system = os.statvfs(disks[0][0])
        there = system.f_frsize * system.f_blocks
        sentence = f"{names}: {asked / 2**30:.1f} GiB are configured on a disk of {there / 2**30:.1f} GiB"
        if asked > there:
            raise Refused(f"{sentence}; reduce cache.disks[].size, or use another disk")
        note = "; on the node's system disk, the kubelet would evict pods" if asked > FULL_SHARE * there else ""
        print(sentence + note)


def main(arguments):
    uid, gid, *disks = arguments
    try:
        sizes = {directory: parse_size(size) for directory, _, size in (disk.rpartition("=") for disk in disks)}
        check_sizes(sizes)
        for directory in sizes:
            adopt(directory, int(uid), int(gid))
    except (Refused, OSError) as error:
        print(f"warmstart: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
