"""Seeds that are pure functions of what they are for."""

from __future__ import annotations

import hashlib


def derive_seed(*key: int | str) -> int:
    r"""A seed in ``[0, 2^63)`` for the integers and strings of ``key``.

    Different keys get unrelated seeds; the same key gets the same seed on every machine.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
