"""What a request's parameters and bodies may cost: selections, globs, batches, forms, uploads, XML, chunked bodies."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gcsapi.batch import parse_batch
from gcsapi.fields import FIELDS_MAX, OBJECTS, parse_fields, select
from gcsapi.globs import PATTERN_MAX, Glob
from gcsapi.uploads import first_part, parse_resource, second_part
from proxy.errors import InvalidRequest
from proxy.lanes import gunzip
from proxy.origin.s3.listing import read_buckets, read_page
from proxy.surface.forms import FORM_FIELDS_BYTES_MAX, parse_form_key
from proxy.surface.multipart import parse_delimiter, parse_parameters
from s3api.bodies import parse_delete, render_parts
from s3api.chunked import ChunkedDecoder, ChunkedForm
from tests.hostile.cost import HEAD_BYTES, Shape, assert_linear, hostile

few = settings(max_examples=15)
LONG_BYTES = 256 << 10  # of bodies that may be megabytes: long enough to tell, and short enough for the CPU's caches

NAMES = [f"models/llama-{n // 10}/model-{n:05d}-of-00100.safetensors" for n in range(50)]
SECTION = "--b\r\nContent-Type: application/http\r\n\r\nGET /storage/v1/b/w/o/x HTTP/1.1\r\n\r\n\r\n"
FIELD = '--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nv\r\n'


@few
@given(hostile(["items", "name", "metadata/", "(", ")", "*"]))
def test_a_selection_costs_no_more_than_its_length(shape: Shape) -> None:
    assert_linear(parse_fields, shape.text, longest=FIELDS_MAX)
    assert_linear(lambda text: select({}, text, OBJECTS), shape.text, longest=HEAD_BYTES)


@few
@given(hostile(["**/", "*", "?", "[", "[a-z]", "[!a]", "{a,b}", "\\"]))
def test_a_glob_costs_no_more_than_its_length_to_read(shape: Shape) -> None:
    assert_linear(Glob, shape.text, longest=PATTERN_MAX)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("**a" * 300, "ab/" * 300),
        ("{" + ",".join(f"**a**b**c**{n}" for n in range(60)) + "}", "abc/" * 250),
        ("**/" * 340, "a/" * 500),
        ("*a?" * 300, "aaa" * 300),
        ("[" + "".join(chr(0x4E00 + n) for n in range(1000)) + "]**", "".join(chr(0x4E00 + n) for n in range(1000))),
        ("**[!" + "".join(chr(0x4E00 + n) for n in range(900)) + "]x", "".join(chr(0x5E00 + n) for n in range(1000))),
    ],
    ids=["stars", "alternatives", "folders", "parts", "members", "others"],
)
def test_a_name_costs_a_glob_no_more_than_the_pattern_times_its_length(pattern: str, name: str) -> None:
    assert_linear(lambda text: Glob(pattern).matches(text), lambda length: name[:length], longest=len(name))


def test_a_glob_takes_less_than_a_step_for_each_character_of_names_that_look_alike() -> None:
    glob = Glob("**/*.{safetensors,json}")
    found = [glob.matches(name) for name in NAMES]
    assert all(found)
    assert glob.steps < 2 * sum(map(len, NAMES))


@few
@given(hostile([SECTION, "--b", "\r\n--b", "--b--", "\r\n\r\n", "a:\n", "Content-Length: 9"]))
@pytest.mark.parametrize("before", ["", SECTION[:-2], "--b\r\n"])
def test_a_batch_costs_no_more_than_its_length(before: str, shape: Shape) -> None:
    def make(length: int) -> bytes:
        return before.encode() + shape.raw(length)

    assert_linear(lambda body: parse_batch("multipart/mixed; boundary=b", body), make, longest=LONG_BYTES)


@few
@given(hostile(["multipart/mixed", "; boundary=", 'name="', ";a=b", "multipart/x;", '\\"', "form-data"]))
def test_a_content_type_costs_no_more_than_its_length(shape: Shape) -> None:
    for parse in (parse_parameters, parse_delimiter, lambda text: parse_delimiter(text, "form-data")):
        assert_linear(parse, shape.text, longest=HEAD_BYTES)


@few
@given(hostile([FIELD, "--b", "\r\n--b\r\n", "\n--b", "\r\n\r\n", ' name="\\"', "Content-Disposition: form-data;"]))
@pytest.mark.parametrize("before", ["", FIELD, "--b\r\nContent-Disposition: form-data; ", "--b\r\n\r\n"])
def test_a_form_costs_no_more_than_its_length(before: str, shape: Shape) -> None:
    def make(length: int) -> bytes:
        return before.encode() + shape.raw(length)

    assert_linear(lambda body: parse_form_key(body, b"--b"), make, longest=FORM_FIELDS_BYTES_MAX)


@few
@given(hostile(["--b", "\r\n--b", "\n\n", "\r\n\r\n", "{", "[", '"a":', "1"]))
def test_an_uploads_parts_cost_no_more_than_their_length(shape: Shape) -> None:
    assert_linear(lambda body: first_part(body, b"--b"), shape.raw, longest=LONG_BYTES)
    assert_linear(lambda body: second_part(body, b"--b"), shape.raw, longest=LONG_BYTES)
    assert_linear(parse_resource, shape.raw, longest=LONG_BYTES)


XML_TOKENS = [
    "<Object>",
    "</Object>",
    "<Key>",
    "</Key>",
    "<x>",
    "</x>",
    "<x/>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "&lt;",
]
XML_TOKENS += ["&#10;", "<?p ", "?>", "</x>\n", " a='b'"]


@few
@given(hostile(XML_TOKENS))
@pytest.mark.parametrize(
    ("parse", "before"),
    [
        (lambda body: parse_delete("b", body), "<Delete>"),
        (render_parts, "<CompleteMultipartUpload>"),
        (read_page, "<ListBucketResult>"),
        (read_buckets, "<ListAllMyBucketsResult><Buckets>"),
    ],
    ids=["delete", "parts", "page", "buckets"],
)
def test_xml_costs_no_more_than_its_length(parse: Callable[[bytes], object], before: str, shape: Shape) -> None:
    assert_linear(parse, lambda length: before.encode() + shape.raw(length), longest=LONG_BYTES, bound_s=0.5)


def test_text_behind_an_element_is_not_gathered_again_at_each_outer_end() -> None:
    def make(length: int) -> bytes:
        levels = min(14, length // 10)
        return b"<Delete>" + b"<x>" * levels + b"\n" * length + b"</x>" * levels + b"</Delete>"

    assert_linear(lambda body: parse_delete("b", body), make, longest=LONG_BYTES)


@pytest.mark.parametrize(
    "body",
    [
        b"<Delete>" + b"<x>" * 16 + b"</x>" * 16 + b"</Delete>",
        b"<Delete>" + b"<x/>" * 40_000 + b"</Delete>",
        b"<Delete>" + b"<Object><Key>a</Key>" + b"<x/>" * 40_000 + b"</Object></Delete>",
    ],
    ids=["deep", "long", "wide"],
)
def test_xml_that_no_client_writes_is_refused_before_it_is_read_to_its_end(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="well-formed"):
        parse_delete("b", body)


@few
@given(hostile(["1\r\na\r\n", "0\r\n", "5;chunk-signature=", "ffff", "\r\n", "x-amz-checksum-crc32:"]), st.booleans())
def test_a_chunked_body_costs_no_more_than_its_length(shape: Shape, at_once: bool) -> None:
    def decode(body: bytes) -> None:
        decoder = ChunkedDecoder(ChunkedForm(1 << 40))
        for offset in range(0, len(body), len(body) if at_once else 1000):
            decoder.feed(body[offset : offset + (len(body) if at_once else 1000)])

    assert_linear(decode, shape.raw, longest=256 << 10, bound_s=0.5)


def test_many_tiny_members_of_gzip_cost_no_more_than_their_length() -> None:
    member = gzip.compress(b"")

    def inflate(packed: bytes) -> None:
        inflater = gunzip._Inflater(plain=False)
        inflater.feed(packed)
        assert inflater.take() == b""

    assert_linear(inflate, lambda length: member * (length // len(member)), longest=gunzip.STEP_BYTES, bound_s=0.5)
