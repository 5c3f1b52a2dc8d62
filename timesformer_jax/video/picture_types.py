"""Whether packets hold B pictures, which are shown before a picture that is stored before them."""

import re
from collections.abc import Iterator

MPEG4_PICTURE = re.compile(rb"\x00\x00\x01\xb6(.)", re.DOTALL)
"""The start code of a VOP; its type is in the highest two bits of what follows (ISO/IEC 14496-2, 6.2.5)."""

MPEG2_PICTURE = re.compile(rb"\x00\x00\x01\x00.(.)", re.DOTALL)
"""The start code of a picture; ten bits of other use, then three of its type (ISO/IEC 13818-2, 6.2.3)."""

KNOWN = {"mpeg4", "mpeg1video", "mpeg2video", "h264"}
"""Codecs whose packets `holds_b_picture` understands."""


def holds_b_picture(codec: str, data: bytes, extradata: bytes | None) -> bool:
    """Whether a packet of one of the `KNOWN` codecs holds a B picture, or slice.

    Args:
        codec: name of the decoder.
        data: of the packet.
        extradata: of the stream.
    """
    if codec == "mpeg4":
        return any(found[1][0] >> 6 == 2 for found in MPEG4_PICTURE.finditer(data))
    if codec != "h264":
        return any(found[1][0] >> 3 & 7 == 3 for found in MPEG2_PICTURE.finditer(data))
    # A slice that is no part of an IDR picture, which has no B slices: first_mb_in_slice, then slice_type.
    slices = (unit for unit in _units(data, extradata or b"") if len(unit) > 1 and unit[0] & 31 == 1)
    return any(_exp_golomb(unit[1:16], 1) % 5 == 1 for unit in slices)


def _units(data: bytes, extradata: bytes) -> Iterator[bytes]:
    """The units of an H.264 packet: after lengths, as in MP4 and Matroska, or else after start codes."""
    if extradata[:1] != b"\x01":
        yield from data.split(b"\x00\x00\x01")[1:]
        return
    width, place = (extradata[4] & 3) + 1, 0
    while place + width < len(data):
        length = int.from_bytes(data[place : place + width], "big")
        place += width
        yield data[place : place + length]
        place += length


def _exp_golomb(data: bytes, number: int) -> int:
    """The number of this place in a row of unsigned Exp-Golomb codes (ITU-T H.264, 9.1)."""
    bits, place, value = "".join(f"{byte:08b}" for byte in data), 0, 0
    for _ in range(number + 1):
        zeros = len(bits[place:]) - len(bits[place:].lstrip("0"))
        value = int(bits[place + zeros : place + 2 * zeros + 1] or "1", 2) - 1
        place += 2 * zeros + 1
    return value
