"""The command line, and where the supervisor's children come in (`python -m proxy worker …`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["worker"], ["housekeep"], ["control"]):
        from proxy.process.bootstrap import leave, run_child

        leave(run_child(words[0], words[1]))
    from proxy.cli.commands import run_command

    return run_command(words)


if __name__ == "__main__":
    sys.exit(main())
