"""The whole object's checksum, where several bodies of one version are under way."""

from __future__ import annotations

import random

import pytest

from proxy.errors import OriginUnavailable
from proxy.objects import SumKind
from tests.gateway.rig import BLOCK_BYTES, Rig, piece_bytes

CONTENT = random.Random(11).randbytes(3 * BLOCK_BYTES + 1234)


async def test_a_body_under_way_while_its_version_is_found_wrong_never_comes_complete(rig: Rig) -> None:
    rig.origin.put("k", CONTENT, sums=(SumKind.CRC32C,))
    rig.origin.corrupt = True
    answer = await rig.read("k")
    assert answer.body is not None
    got = piece_bytes(await anext(answer.body))
    with pytest.raises(OriginUnavailable):
        await rig.get("k")
    rig.origin.corrupt = False
    assert await rig.get("k") == CONTENT  # by now the disk holds the right bytes
    with pytest.raises(OriginUnavailable):
        async for piece in answer.body:
            got += piece_bytes(piece)
    assert got != CONTENT[: len(got)]
    assert len(got) < len(CONTENT)
