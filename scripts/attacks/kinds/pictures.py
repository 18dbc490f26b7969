"""Pictures (PNG, TIFF, BMP) that are damaged or promise gigabytes, met by every command that reads images."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from attacks.kinds.scans import keeps_secret
from attacks.recipes import Recipe, per_command
from attacks.sandbox import Sandbox
from attacks.table import ANY, Expect, Try, kind


def _chunk(name: bytes, content: bytes, summed: bool = True) -> bytes:
    check = zlib.crc32(name + content) if summed else 0
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def _png(width: int, height: int, rows: bytes, depth: int = 8, colour: int = 0, summed: bool = True) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (_chunk(b"IHDR", header, summed), _chunk(b"IDAT", rows), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _png_bomb() -> bytes:
    """Three gigabytes of zeros in three megabytes, behind a header that promises them."""
    packer = zlib.compressobj(9)
    block = packer.compress(bytes(1 << 26))
    return _png(56000, 56000, block + b"".join(packer.compress(bytes(1 << 26)) for _ in range(2)) + packer.flush())


def _tiff(width: int, height: int, offset: int = 200, bits: int = 8, further: bytes = b"", following: int = 0) -> bytes:
    fields = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: offset, 277: 1, 278: height, 279: width * height}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value & 0xFFFFFFFF) for tag, value in sorted(fields.items()))
    directory = struct.pack("<H", len(fields)) + entries + struct.pack("<I", following)
    return (b"II*\0" + struct.pack("<I", 8) + directory).ljust(200, b"\0") + further


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, 0, 1, 1, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 1078) + header + bytes(1024)


def _good_png() -> bytes:
    picture = np.zeros((16, 17), np.uint8)
    return _png(16, 16, zlib.compress(picture.tobytes()))


PICTURES: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "png_bomb": (".png", _png_bomb),
    "png_of_2_billion_rows": (".png", lambda: _png(2**31 - 1, 2**31 - 1, b"")),
    "png_without_rows": (".png", lambda: _png(64, 64, b"")),
    "png_cut_short": (".png", lambda: _good_png()[:40]),
    "png_with_wrong_sums": (".png", lambda: _png(16, 16, zlib.compress(bytes(272)), summed=False)),
    "png_size_0": (".png", lambda: _png(0, 0, zlib.compress(b""))),
    "png_depth_77": (".png", lambda: _png(16, 16, zlib.compress(bytes(272)), depth=77)),
    "png_in_colours": (".png", lambda: _png(16, 16, zlib.compress(bytes(16 * 49)), colour=2)),
    "png_is_text": (".png", lambda: b"<svg onload=alert(1)>"),
    "tiff_bomb": (".tif", lambda: _tiff(65000, 65000)),
    "tiff_offset_beyond_the_end": (".tif", lambda: _tiff(16, 16, offset=2**31)),
    "tiff_of_a_million_bits": (".tif", lambda: _tiff(16, 16, bits=2**20, further=bytes(300))),
    "tiff_of_endless_pages": (".tif", lambda: _tiff(16, 16, further=bytes(256), following=8)),
    "tiff_cut_short": (".tif", lambda: _tiff(16, 16)[:20]),
    "bmp_of_2_billion_rows": (".bmp", lambda: _bmp(2**31 - 1, 2**31 - 1)),
    "bmp_negative": (".bmp", lambda: _bmp(-5, -5)),
}


def _register(turn: int, name: str) -> None:
    ending, content = PICTURES[name]

    @kind(f"picture_{name}")
    def make() -> Iterator[Try]:
        for recipe, role in per_command(turn, "image", "label", "reference"):
            if recipe.command == "merge_datasets":
                continue

            def set_up(box: Sandbox, recipe: Recipe = recipe, role: str = role) -> Sequence[str]:
                argv = recipe.build(box, ".nii.gz")
                good = recipe.file(box, role)
                good.unlink()
                good.with_name(good.name.replace(".nii.gz", ending)).write_bytes(content())
                return [word.replace(".nii.gz", ".*") if "{case}" in word else word for word in argv]

            # What is no image of this dataset may be passed over, too.
            expect = Expect(ANY, recipe.targets, "", (keeps_secret,))
            yield Try(recipe.command, f"{recipe.name}/{role}", (set_up,), expect)


for _turn, _name in enumerate(PICTURES):
    _register(_turn, _name)
