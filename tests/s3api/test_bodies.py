"""Bodies as they are received, and the names that they hold."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.lanes.incoming import ClientGone, read_whole, receive_body
from proxy.objects import ObjectName
from proxy.surface.forms import FIELDS_MAX, FORM_FIELDS_BYTES_MAX, read_form_key
from s3api.bodies import (
    parse_delete,
)

FORM = "multipart/form-data; boundary=XX"


def part(head: str, content: bytes) -> bytes:
    return b"--XX\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    for item in parts:
        yield item


def messages(*items: dict[str, Any]) -> Any:
    waiting = list(items)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return receive


async def test_body_comes_piece_by_piece() -> None:
    receive = messages(
        {"type": "http.request", "body": b"ab", "more_body": True},
        {"type": "http.request", "body": b"", "more_body": True},
        {"type": "http.request", "body": b"c"},
    )
    assert [piece async for piece in receive_body(receive)] == [b"ab", b"c"]


async def test_client_that_leaves_in_mid_body_is_noticed() -> None:
    receive = messages({"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.disconnect"})
    body = receive_body(receive)
    assert await anext(body) == b"ab"
    with pytest.raises(ClientGone):
        await anext(body)


async def test_client_that_stops_sending_times_out() -> None:
    with pytest.raises(InvalidRequest) as caught:
        await anext(receive_body(messages(), timeout_s=0.0))
    assert caught.value.code == "RequestTimeout"


async def test_whole_body_is_bounded() -> None:
    assert await read_whole(stream(b"ab", b"cd"), 4) == b"abcd"
    with pytest.raises(InvalidRequest) as caught:
        await read_whole(stream(b"ab", b"cde"), 4)
    assert caught.value.code == "MaxMessageLengthExceeded"


@pytest.mark.parametrize(
    "document",
    [
        "<Delete><Object><Key>a &amp; b</Key></Object><Object><Key>c</Key><VersionId>v1</VersionId></Object></Delete>",
        '<?xml version="1.0" encoding="UTF-8"?>\n<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/">\n'
        "  <Quiet>true</Quiet>\n  <Object>\n    <Key>a &amp; b</Key>\n    <ETag>x</ETag>\n  </Object>\n"
        "  <Object><VersionId>v1</VersionId><Key>c</Key></Object>\n</Delete>",
        '<s:Delete xmlns:s="http://s3.amazonaws.com/doc/2006-03-01/"><s:Object><s:Key>a &#38; b</s:Key></s:Object>'
        "<s:Object><s:Key><![CDATA[c]]></s:Key><s:VersionId>v1</s:VersionId></s:Object></s:Delete>",
    ],
)
def test_batch_delete_names_keys_and_versions(document: str) -> None:
    assert parse_delete("models", document.encode()) == (
        ObjectName("models", "a & b"),
        ObjectName("models", "a & b", "null"),
        ObjectName("models", "c"),
        ObjectName("models", "c", "null"),
        ObjectName("models", "c", "v1"),
    )


def test_keys_keep_their_spaces() -> None:
    document = b"<Delete><Object><Key> a\n b </Key></Object></Delete>"
    assert parse_delete("models", document)[0].key == " a\n b "


@pytest.mark.parametrize(
    "document",
    [
        "",
        "nonsense",
        "<Delete></Delete>",
        "<Delete><Object></Object></Delete>",
        "<Delete><Object><Key></Key></Object></Delete>",
        "<Delete><Object><Key>a</Key></Object>",
        "<Other><Object><Key>a</Key></Object></Other>",
        '<!DOCTYPE d [<!ENTITY e "x">]><Delete><Object><Key>&e;</Key></Object></Delete>',
        "<Delete>" + "<Object><Key>a</Key></Object>" * 1001 + "</Delete>",
    ],
)
def test_malformed_batch_delete_is_refused(document: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_delete("models", document.encode())
    assert caught.value.code == "MalformedXML"


@pytest.mark.parametrize(
    ("key", "file_head", "expected"),
    [
        (b"a/b.bin", 'name="file"; filename="x"', "a/b.bin"),
        (b"up/${filename}", 'name="file"; filename="x.bin"', "up/x.bin"),
        (b"${filename}", 'name="file"; filename="C:\\dir\\x.bin"', "x.bin"),
        (b"${filename}", 'filename="/home/me/x.bin"; name="file"', "x.bin"),
        ("é\n".encode(), 'name="file"', "é\n"),
    ],
)
async def test_form_names_its_key(key: bytes, file_head: str, expected: str) -> None:
    whole = form(part('name="acl"', b"private"), part('name="key"', key), part(file_head, b"content"))
    assert (await read_form_key(FORM, stream(whole)))[0] == expected


@given(cuts=st.lists(st.integers(0, 400), max_size=20))
async def test_form_may_come_in_any_cuts_and_goes_on_whole(cuts: list[int]) -> None:
    whole = form(part('name="key"', b"a--XX\r\nb"), part('name="x"', b""), part('name="file"', b"--XX" * 20))
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    body = stream(*(whole[begin:end] for begin, end in itertools.pairwise(places)))
    key, read = await read_form_key(FORM, body)
    assert key == "a--XX\r\nb"
    assert read + b"".join([piece async for piece in body]) == whole


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("multipart/form-data", form(), "MalformedPOSTRequest"),
        (FORM, b"", "InvalidArgument"),
        ("multipart/form-data; boundary=XX; boundary=YY", form(), "MalformedPOSTRequest"),
        ("multipart/form-datax; boundary=XX", form(), "MalformedPOSTRequest"),
        ("multipart/x;" * 5000 + FORM, form(), "MalformedPOSTRequest"),
        (FORM, form(part('name="key"', b"a")), "InvalidArgument"),
        (FORM, form(part('name="file"', b"x"), part('name="key"', b"a")), "InvalidArgument"),
        (FORM, form(part('name="key"', b"\xff"), part('name="file"', b"x")), "InvalidArgument"),
        (FORM, part('name="key"', b"a" * (FORM_FIELDS_BYTES_MAX + 1)), "MaxPostPreDataLengthExceeded"),
    ],
)
async def test_form_without_a_key_before_its_file_is_refused(content_type: str, body: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await read_form_key(content_type, stream(body))
    assert caught.value.code == code


async def test_boundary_may_be_quoted() -> None:
    whole = form(part('name="key"', b"a"), part('name="file"', b"x"))
    assert (await read_form_key('Multipart/Form-Data; charset=utf-8; boundary="XX"', stream(whole)))[0] == "a"


KEY, FILE = part('name="key"', b"mine"), part('name="file"', b"x")
OTHER = {
    "twice": part('name="key"', b"other"),
    "in other case": part('name="Key"', b"other"),
    "with a blank": part('name="key "', b"other"),
    "unquoted": part("name=key", b"other"),
    "twice in one head": part('name="x"; name="key"', b"other"),
    "encoded": part("name=\"x\"; name*=utf-8''key", b"other"),
    "file in other case": part('name="File"', b"other"),
    "in a second disposition": b'--XX\r\nContent-Disposition: form-data; name="x"\r\n'
    b'Content-Disposition: form-data; name="key"\r\n\r\nother\r\n',
    "behind a bare newline": b'--XX\r\nA: b\nContent-Disposition: form-data; name="key"\r\n\r\nother\r\n',
    "on a folded line": b'--XX\r\nContent-Disposition: form-data;\r\n name="key"\r\n\r\nother\r\n',
    "behind a line without CR": part('name="x"', b'v\n--XX\r\nContent-Disposition: form-data; name="key"\r\n\r\no'),
    "behind a boundary with more to it": part('name="x"', b'v\r\n--XX y\r\nA: form-data; name="key"\r\n\r\no'),
    "coded for transfer": b'--XX\r\nContent-Disposition: form-data; name="x"\r\n'
    b"Content-Transfer-Encoding: quoted-printable\r\n\r\nother\r\n",
    "in another charset": b'--XX\r\nContent-Disposition: form-data; name="x"\r\n'
    b"Content-Type: text/plain; charset=utf-16\r\n\r\nother\r\n",
}


@pytest.mark.parametrize("other", OTHER.values(), ids=OTHER)
async def test_a_form_in_which_a_store_might_find_another_key_is_refused(other: bytes) -> None:
    for fields in ((KEY, other), (other, KEY)):
        with pytest.raises(InvalidRequest) as caught:
            await read_form_key(FORM, stream(form(*fields, FILE)))
        assert caught.value.code in ("InvalidArgument", "MalformedPOSTRequest")


async def test_a_key_with_the_files_name_takes_only_a_name_that_is_not_encoded() -> None:
    whole = form(part('name="key"', b"up/${filename}"), part("name=\"file\"; filename*=utf-8''a", b"x"))
    with pytest.raises(InvalidRequest, match="encoded"):
        await read_form_key(FORM, stream(whole))


async def test_a_form_may_begin_with_an_empty_line_and_have_fields_of_a_type() -> None:
    typed = b'--XX\r\ncontent-type: text/plain; charset="UTF-8"\r\nContent-Disposition:form-data;name=x\r\n\r\nv\r\n'
    for cut in range(6):
        whole = b"\r\n" + form(typed, KEY, FILE)
        assert (await read_form_key(FORM, stream(whole[:cut], whole[cut:])))[0] == "mine"


async def test_a_form_has_a_limit_of_fields_and_of_their_heads() -> None:
    for fields, code in (
        ([part('name="x"', b"")] * (FIELDS_MAX + 1), "MaxPostPreDataLengthExceeded"),
        ([part('name="' + "x" * 5000 + '"', b"")], "MalformedPOSTRequest"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await read_form_key(FORM, stream(form(*fields, KEY, FILE)))
        assert caught.value.code == code
