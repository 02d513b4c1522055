"""The last bytes of a block's answer: what the giver knows of the block, and the MAC that covers its bytes. Pure.

How it works. A body is its bytes and TAIL_BYTES more, little-endian: flags, a crc32c, and 16 bytes of a MAC. So a body
has a length from the start, leaves a node by sendfile, and says only at its end what is known only then. Where a flag
says so, crc32c and MAC cover the whole block, or, for a `summed` request, just the bytes that were asked for.

The MAC is HMAC-SHA256, cut to 16 bytes, with the secret that signed the request, over the request's signature, the
flags, the crc32c and the keyed digest of the bytes (`proxy.relay.digests`). The digest itself is never sent. So whoever
has a block's digest proves it to each asker by one HMAC, without touching its bytes again.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from proxy.fleet.signing import Proofs

MAC_BYTES = 16
_TAIL = struct.Struct(f"<II{MAC_BYTES}s")
_SAID = struct.Struct("<II")
TAIL_BYTES = _TAIL.size
KNOWN = 1  # flag: the crc32c is known
PROVED = 2  # flag: the MAC is one


def render_tail(crc32c: int | None, proofs: Proofs, digest: bytes | None) -> bytes:
    """`crc32c` None: nothing is known of the block. `digest` None: the asker wants no MAC."""
    if crc32c is None:
        return bytes(TAIL_BYTES)
    flags = KNOWN if digest is None else KNOWN | PROVED
    return _TAIL.pack(flags, crc32c, b"" if digest is None else _mac(proofs, flags, crc32c, digest))


@dataclass(frozen=True, slots=True)
class Tail:
    """What an answer says of the block. `crc32c` None: nothing. `proofs` None: nothing proves it."""

    crc32c: int | None
    proofs: Proofs | None = None
    mac: bytes = b""

    @classmethod
    def parse(cls, raw: bytes, proofs: Proofs) -> Tail:
        """`raw` has TAIL_BYTES."""
        flags, crc32c, mac = _TAIL.unpack(raw)
        if not flags & KNOWN:
            return cls(None)
        return cls(crc32c, proofs, mac) if flags & PROVED else cls(crc32c)

    @property
    def proved(self) -> bool:
        """Whether the bytes' digest must be known to tell whether they are right."""
        return self.proofs is not None

    def fits(self, crc32c: int, digest: bytes | None) -> bool:
        """Whether these are the bytes that the giver has. `digest`: of a tail that is `proved`."""
        if self.crc32c != crc32c:
            return False
        if self.proofs is None:
            return True
        assert digest is not None
        return hmac.compare_digest(self.mac, _mac(self.proofs, KNOWN | PROVED, crc32c, digest))


def _mac(proofs: Proofs, flags: int, crc32c: int, digest: bytes) -> bytes:
    return proofs.tail(_SAID.pack(flags, crc32c) + digest)[:MAC_BYTES]
