"""What lies where in a shard: names of shards and members, and the 512-byte headers of a POSIX tar
file.

A member is a header, its bytes, and zeros up to a multiple of 512; a file ends with two zero
blocks, filled up to a record of 10,240 bytes. The image of a tile comes first, its mask follows at
once, so one range read gets both. Source: IEEE Std 1003.1, pax, ustar interchange format; names as
WebDataset reads them (all up to the first dot is the key of a sample).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from histoprep.checksums import Checksum, Expected
from histoprep.digests import digest_text
from histoprep.errors import IntegrityError
from histoprep.image_formats import shard_suffix

BLOCK = 512
RECORD = 20 * BLOCK
MASK_SUFFIX = "mask.png"
INDEX, REQUEST = "index.parquet", "shard.json"
# Everything but name, size and checksum: mode 0644, no owner, the beginning of time, a regular
# file.
_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2
_AFTER_SIZE = b"00000000000\0"
_AFTER_CHECKSUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
# The checksum counts its own field as blanks.
_FIXED_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + sum(_AFTER_CHECKSUM) + 8 * ord(" ")
_MAX_SIZE = 8**11 - 1


def key_of(tile_id: str) -> str:
    """Return the key of a tile in shards: XXH3-128 of its id, 32 hex digits; real names hold dots,
    which would cut a key short.
    """
    return digest_text(tile_id)


def image_suffix(image_path: str) -> str:
    """Return the suffix of an image in a shard, in lower case, one for each format; `bin` for a
    name without any.
    """
    name = image_path.rpartition("/")[2]
    suffix = name.rpartition(".")[2].lower() if "." in name else "bin"
    suffix = suffix if suffix.isascii() and suffix.isalnum() and len(suffix) <= 8 else "bin"
    return shard_suffix(suffix)


def shard_name(split: str, pool: str, number: int) -> str:
    """Return the name of a shard: `<split>-<pool>-000000.tar`."""
    return f"{split}-{pool}-{number:06d}.tar"


def shard_files(shards: Iterable[Mapping[str, Any]]) -> Iterator[Expected]:
    """Yield the shards that the header of an index describes, as files that should be there."""
    for shard in shards:
        yield Expected(shard["name"], Checksum(shard["bytes"], shard["digest"]))


def member_header(name: str, size: int) -> bytes:
    """Return the header of a member: 512 bytes that depend on name and size alone; raises
    ValueError for ones that do not fit.
    """
    encoded = name.encode("ascii")
    if len(encoded) > 100 or not 0 <= size <= _MAX_SIZE:
        raise ValueError(f"no member of a tar file: {name}, {size} bytes")
    digits = b"%011o" % size
    checksum = b"%06o\0 " % (_FIXED_SUM + sum(encoded) + sum(digits))
    return b"".join(
        [
            encoded.ljust(100, b"\0"),
            _BEFORE_SIZE,
            digits,
            b"\0",
            _AFTER_SIZE,
            checksum,
            _AFTER_CHECKSUM,
        ]
    )


def padding(size: int) -> bytes:
    """Return the zeros that follow `size` bytes."""
    return bytes(-size % BLOCK)


def member_bytes(size: int) -> int:
    """Return what a member of `size` bytes takes up with its header and padding."""
    return BLOCK + size + -size % BLOCK


def trailer(size: int) -> bytes:
    """Return what ends a file whose members take up `size` bytes."""
    return bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD)


class Member(NamedTuple):
    """A member as its header describes it."""

    name: str
    size: int


def parse_header(block: bytes) -> Member | None:
    """Return the member that a header of ours describes, None for a block of zeros; raises
    IntegrityError for anything else.
    """
    if block == bytes(BLOCK):
        return None
    try:
        name, digits = block[:100].rstrip(b"\0").decode("ascii"), block[124:135]
        member = Member(name, int(digits, 8))
        same = member_header(*member) == block
    except ValueError:
        same = False
    if not same:
        raise IntegrityError("no header of a member that we wrote")
    return member
