"""XML as S3 and GCS write it. Pure.

What XML 1.0 can't hold (most control characters, lone surrogates) becomes U+FFFD, so that a document with a strange
key in it stays readable; clients that must know such keys exactly ask for `encoding-type=url`.
"""

from __future__ import annotations

import re
from xml.parsers import expat

DEPTH_MAX = 16  # the documents of S3 and GCS have four levels or five; stores add some
ELEMENTS_PER_ITEM_MAX = 32  # an object in a listing has some ten, one of its parts as many
ELEMENTS_BESIDE_ITEMS_MAX = 64
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

    `settings` are the fields beside the items; `inner` names the items of a collection. The cost is linear in the
    document: the text of an element is joined once, at its own end, and depth and number of elements are bounded.
    """

    def __init__(self, root: str, kinds: tuple[str, ...], inner: str | None = None, *, items_max: int) -> None:
        self._root = root
        self._kinds = kinds
        self._depth = 2 if inner is None else 3
        self._left = ELEMENTS_BESIDE_ITEMS_MAX + items_max * ELEMENTS_PER_ITEM_MAX
        self._path: list[str] = []
        self._text: list[str] = []
        self._item: dict[str, str] = {}
        self.items: list[tuple[str, dict[str, str]]] = []
        self.settings: dict[str, str] = {}

    def parse(self, content: bytes) -> None:
        """Raises ValueError. Large documents take a tenth of a second: parse them in a thread."""
        parser = expat.ParserCreate()
        parser.buffer_text = True  # else each line feed of a text is a call of its own
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
        self._left -= 1
        if self._left < 0:
            raise ValueError("more elements than any document has")
        if len(self._path) == DEPTH_MAX:
            raise ValueError(f"elements in elements, {DEPTH_MAX} deep")
        self._path.append(name.rpartition(":")[2])
        self._text.clear()
        if self._path[0] != self._root:
            raise ValueError(f"a {self._path[0]}")
        if len(self._path) == self._depth:
            self._item = {}

    def _end(self, _: str) -> None:
        path, kind = self._path, self._path[1] if len(self._path) > 1 else ""
        if kind not in self._kinds:
            if len(path) == 2:
                self.settings[kind] = "".join(self._text)
        elif len(path) == self._depth:
            self.items.append((kind, self._item))
        elif len(path) == self._depth + 1:
            self._item[path[-1]] = "".join(self._text)
        self._text.clear()
        path.pop()
