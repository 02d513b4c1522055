"""XML as S3 and GCS write it. Pure.

What XML 1.0 can't hold (most control characters, lone surrogates) becomes U+FFFD, so that a document with a strange
key in it stays readable; clients that must know such keys exactly ask for `encoding-type=url`.
"""

from __future__ import annotations

import re
from xml.parsers import expat

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
_IMPOSSIBLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"})


def escape(text: str) -> str:
    return _IMPOSSIBLE.sub("\ufffd", text).translate(_ENTITIES)


def element(name: str, text: str | int) -> str:
    return f"<{name}>{escape(str(text))}</{name}>"


def document(root: str, content: str, *, namespace: str | None = None) -> bytes:
    opening = f'{root} xmlns="{namespace}"' if namespace else root
    return f"{DECLARATION}<{opening}>{content}</{root}>".encode()


class ItemReader:
    """A reader of `<ROOT><ITEM>fields</ITEM>…`; a document type, and so any entity, is refused.

    `settings` are the fields beside the items; `inner` names the items of a collection.
    """

    def __init__(self, root: str, kinds: tuple[str, ...], inner: str | None = None) -> None:
        self._root = root
        self._kinds = kinds
        self._depth = 2 if inner is None else 3
        self._path: list[str] = []
        self._text: list[str] = []
        self._item: dict[str, str] = {}
        self.items: list[tuple[str, dict[str, str]]] = []
        self.settings: dict[str, str] = {}

    def parse(self, content: bytes) -> None:
        """Raises ValueError."""
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = self._refuse
        try:
            parser.Parse(content, True)
        except expat.ExpatError as error:
            raise ValueError("no XML") from error

    def _refuse(self, *_: object) -> None:
        raise ValueError("a document type")

    def _start(self, name: str, _: dict[str, str]) -> None:
        self._path.append(name.rpartition(":")[2])
        self._text.clear()
        if self._path[0] != self._root:
            raise ValueError(f"a {self._path[0]}")
        if len(self._path) == self._depth:
            self._item = {}

    def _end(self, _: str) -> None:
        text = "".join(self._text)
        path, kind = self._path, self._path[1] if len(self._path) > 1 else ""
        if kind not in self._kinds:
            if len(path) == 2:
                self.settings[kind] = text
        elif len(path) == self._depth:
            self.items.append((kind, self._item))
        elif len(path) == self._depth + 1:
            self._item[path[-1]] = text
        path.pop()
