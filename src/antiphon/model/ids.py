"""Time-ordered event ids (UUID version 7, RFC 9562)."""

from __future__ import annotations

_VERSION_7 = 0x7 << 76
_VARIANT = 0x2 << 62
_RAND_A = (1 << 74) - 1


def uuid7(ms: int, tail: int) -> str:
    """The UUIDv7 of *ms* (Unix milliseconds, 48 bits) and *tail* (74 bits, counter and randomness)."""
    tail &= _RAND_A
    value = ms << 80 | _VERSION_7 | (tail >> 62) << 64 | _VARIANT | tail & 0x3FFF_FFFF_FFFF_FFFF
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
