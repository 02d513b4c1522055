"""Makes cache directories the gateway's own and checks that their disks are as large as the settings say.

How it works. It runs as root, once before each start of the gateway, with CHOWN and FOWNER as its only capabilities:
it may give files away, but can't look into a directory that is closed to root, until it takes that directory over.
A directory that belongs to the gateway already is left as it is. Another one must be empty but for a cache (`v1`)
and a file system's lost+found: a directory with other files in it is refused before anything was changed, as a wrong
hostPath would otherwise cost the node its files. The top is given away last, so that a run which was cut off is begun
again by the next one.

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
# The kubelet evicts pods from a node whose own disk is fuller than this.
FULL_SHARE = 0.85


class Refused(Exception):
    """Why the gateway can't start on this disk, in one sentence."""


def parse_size(text):
    """Bytes of `500GiB`, `1.5TB` or a bare number."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].lower() not in UNITS:
        raise Refused(f"{text!r} is not a size; write a number and its unit, such as 500GiB")
    return int(float(found[1]) * UNITS[found[2].lower()])


def adopt(directory, uid, gid):
    """Makes the directory and the cache in it belong to uid and gid; raises Refused if it is somebody else's."""
    owner = os.stat(directory)
    if (owner.st_uid, owner.st_gid) != (uid, gid):
        os.chown(directory, 0, 0)
        os.chmod(directory, 0o700)
        foreign = sorted(set(os.listdir(directory)) - OURS)
        if foreign:
            os.chmod(directory, stat.S_IMODE(owner.st_mode))
            os.chown(directory, owner.st_uid, owner.st_gid)
            names = ", ".join(foreign[:3])
            raise Refused(f"{directory}: holds other files ({names}); give the cache a directory of its own")
        if os.path.isdir(f"{directory}/v1") and not os.path.islink(f"{directory}/v1"):
            give_away(f"{directory}/v1", uid, gid)
        os.chown(directory, uid, gid)
        print(f"{directory}: made user {uid}'s")
    os.chmod(directory, 0o700)


def give_away(directory, uid, gid):
    """The directory and all below it, never through a link."""
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
    """Raises Refused where disks are smaller than what is to be kept on them, all directories of one together."""
    devices = {}
    for directory, size in sizes.items():
        devices.setdefault(os.stat(directory).st_dev, []).append((directory, size))
    for disks in devices.values():
        names, asked = " and ".join(name for name, _ in disks), sum(size for _, size in disks)
        system = os.statvfs(disks[0][0])
        there = system.f_frsize * system.f_blocks
        sentence = f"{names}: {asked / 2**30:.1f} GiB are asked for on a disk of {there / 2**30:.1f} GiB"
        if asked > there:
            raise Refused(f"{sentence}; make cache.disks[].size smaller, or name another disk")
        note = "; on the node's own disk the kubelet would evict pods" if asked > FULL_SHARE * there else ""
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
