"""Ways in which an image file can be broken."""

import struct
import zlib


def _chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def grey_png(height, width, bits, lines):
    """A PNG of grey values, from its lines as they are before compression."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _truncated(content):
    return content[: len(content) * 2 // 3]


def _corrupt(content):
    # The pixels of a PNG, the tables of a JPEG.
    middle = content.index(b"IDAT") + 8 if b"IDAT" in content else content.index(b"\xff\xdb")
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle:])


SPOILERS = {
    "truncated": _truncated,
    "corrupt": _corrupt,
    "empty": lambda _: b"",
    "text": lambda _: b"no image",
    "bomb": lambda _: grey_png(50_000, 50_000, 8, b"\0"),
}
