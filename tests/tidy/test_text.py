"""What the repository's text must not say: where it was written, and from where packages came there."""

from __future__ import annotations

import pytest

from tests.tidy.sources import ROOT, repository_files

# Written in two halves, so that this file passes its own test.
MACHINE_WORDS = (
    "/wo" + "rk/",
    "/tmp/" + "ws/",
    "/opt/" + "wheels",
    "/ro" + "ot/",
    "--extra-" + "index-url",
    "--find-" + "links",
    "files.python" + "hosted.org",
    "py" + "pi.org",
    "registry.npm" + "js.org",
    "crates" + ".io",
    "proxy.go" + "lang.org",
    "deb.deb" + "ian.org",
)


@pytest.mark.parametrize("word", MACHINE_WORDS)
def test_no_text_names_a_machine_path_or_a_package_host(word: str) -> None:
    said = []
    for path in repository_files():
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            if word.encode() in line:
                said.append(f"{path.relative_to(ROOT)}:{number}")
    assert not said


def test_every_text_file_ends_with_one_newline_and_has_no_tabs_or_trailing_blanks() -> None:
    untidy = []
    for path in repository_files():
        if path.suffix not in {".md", ".py", ".toml", ".yaml", ".yml", ".txt", ".json"}:
            continue
        text = path.read_text("utf-8")
        blanks = any(line != line.rstrip() for line in text.split("\n") if path.suffix != ".md")
        if text and (blanks or "\t" in text or not text.endswith("\n") or text.endswith("\n\n")):
            untidy.append(str(path.relative_to(ROOT)))
    assert not untidy
