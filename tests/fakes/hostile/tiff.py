"""TIFF files whose directories loop, flood, lie or swell."""

import struct
import zlib
from collections.abc import Iterator
from functools import partial

from PIL import Image

from tests import pages
from tests.fakes.hostile.sample import Sample, refused
from tests.fakes.tiff_files import ASCII, BYTE, LONG, SHORT, UNDEFINED, Directory, picture, tiff

_WHITE = b"\xff" * 3600
_DEFLATE, _LZW, _PACKBITS, _G3, _G4, _JPEG, _OLD_JPEG, _LZMA, _ZSTD, _WEBP = (
    8, 5, 32_773, 3, 4, 7, 6, 34_925, 50_000, 50_001,
)  # fmt: skip


def _good(**changes: object) -> Directory:
    return picture(60, 60, [_WHITE], **changes)


def samples() -> Iterator[Sample]:
    yield from _chains()
    yield from _tags()
    yield from _blocks()
    yield from _bombs()


def _chains() -> Iterator[Sample]:
    first = tiff([_good()])
    (at,) = struct.unpack_from("<I", first, 4)
    yield Sample(
        name="tiff, a page that is followed by itself",
        make=lambda: first[:-4] + struct.pack("<I", at),
        ends=refused("InvalidImage"),
    )
    yield Sample(name="tiff, a first page in the header", make=lambda: b"II*\0\0\0\0\0" + bytes(999), ends=refused())
    yield Sample(
        name="tiff, a first page beyond the file",
        make=lambda: b"II*\0" + struct.pack("<I", 2**32 - 1) + bytes(99),
        ends=refused(),
    )
    yield Sample(name="tiff of 5000 pages", make=lambda: tiff([_good()] * 5000), ends=refused("InvalidPageRange"))
    yield Sample(name="tiff of 2000 pages", make=lambda: tiff([_good()] * 2000))
    yield Sample(name="tiff of 60000 pages that overlap", make=_overlapping, ends=refused())
    yield Sample(
        name="bigtiff, a next page at 2**63",
        make=lambda: tiff([_good()], big=True)[:-8] + struct.pack("<Q", 2**63),
        ends=refused(),
    )
    yield Sample(name="bigtiff of offsets of 4 bytes", make=lambda: b"II+\0\x04\0\0\0" + bytes(99), ends=refused())
    yield Sample(
        name="tiff, sub-directories that loop",
        make=lambda: tiff([_good(more={330: (LONG, 8), 34_665: (LONG, 8), 34_853: (LONG, 8)})]),
    )


def _overlapping() -> bytes:
    """Directories of one entry, each starting inside the one before."""
    body = b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 60, 8 + 18 * (number + 1)) for number in range(60_000))
    return b"II*\0\x08\0\0\0" + body


def _tags() -> Iterator[Sample]:
    flood = dict.fromkeys(range(1000, 60000), (SHORT, 1))
    yield Sample(name="tiff, a flood of tags", make=lambda: tiff([_good(more=flood)]), ends=refused())
    yield Sample(name="tiff, 4000 tags", make=lambda: tiff([_good(more=dict.fromkeys(range(1000, 5000), (SHORT, 1)))]))
    yield Sample(
        name="tiff, 1900 pages of 2000 tags each",
        make=lambda: tiff([_good(more=dict.fromkeys(range(1000, 1200), (SHORT, 1)))] * 1900),
    )
    yield Sample(name="tiff, a tag of 4 GB", make=lambda: _lying_count(270, ASCII, 2**32 - 1))
    yield Sample(name="tiff, strips without number", make=lambda: _lying_count(273, LONG, 2**32 - 1), ends=refused())
    yield Sample(name="tiff, bits without number", make=lambda: _lying_count(258, SHORT, 2**31))
    yield Sample(name="tiff, many tags that share a megabyte", make=lambda: _shared_tags(4000))
    yield Sample(name="tiff, many pages that share a megabyte", make=lambda: _shared_tags(100))
    yield Sample(
        name="tiff, a tag of no known type",
        make=lambda: tiff([_good()]).replace(struct.pack("<HH", 277, 3), struct.pack("<HH", 277, 99)),
    )
    for tag in (256, 257, 258, 259, 262, 273, 277, 278, 279):
        yield Sample(name=f"tiff without tag {tag}", make=lambda tag=tag: _without(tag))
    for samples_per_pixel in (0, 5, 255, 65_535):
        yield Sample(
            name=f"tiff, {samples_per_pixel} samples a pixel",
            make=lambda n=samples_per_pixel: tiff([_good(more={277: (SHORT, n)})]),
        )
    for bits in (0, 3, 65, 65_535):
        yield Sample(name=f"tiff, {bits} bits a sample", make=lambda bits=bits: tiff([_good(bits=(bits,))]))
    for photometric in (4, 9, 10, 32_844, 32_845, 65_535):
        yield Sample(name=f"tiff, photometric {photometric}", make=lambda p=photometric: tiff([_good(photometric=p)]))
    for compression in (
        0,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        9,
        10,
        99,
        32_766,
        32_773,
        32_809,
        32_908,
        32_946,
        34_661,
        34_676,
        34_712,
        34_887,
        34_925,
        50_000,
        50_001,
        65_535,
    ):
        yield Sample(
            name=f"tiff, white taken for compression {compression}",
            make=lambda c=compression: tiff([_good(compression=c)]),
        )
    yield Sample(name="tiff, a colour map that is missing", make=lambda: tiff([_good(photometric=3)]))
    yield Sample(
        name="tiff, a predictor of 9", make=lambda: tiff([_good(more={317: (SHORT, 9)}, compression=_DEFLATE)])
    )
    yield Sample(name="tiff, an orientation of 99", make=lambda: tiff([_good(more={274: (SHORT, 99)})]))
    yield Sample(
        name="tiff, a resolution of 0/0",
        make=lambda: tiff([_good(more={282: (5, (0, 0)), 283: (5, (1, 0)), 296: (SHORT, 3)})]),
    )


def _lying_count(tag: int, kind: int, count: int) -> bytes:
    blob = tiff([_good(more={tag: (kind, b"abcdefgh" if kind == ASCII else [1, 1, 1])})])
    at = blob.rindex(struct.pack("<HH", tag, kind))
    return blob[: at + 4] + struct.pack("<I", count) + blob[at + 8 :]


def _shared_tags(count: int) -> bytes:
    """Tags that all point at the same megabyte."""
    blob = bytes(2**20)
    first = picture(60, 60, [_WHITE, blob], more={273: (LONG, 8), 279: (LONG, 3600)})
    out = bytearray(tiff([first]))
    entries = [bytes(out[at : at + 12]) for at in range(_directory_at(out) + 2, len(out) - 4, 12)]
    entries += [struct.pack("<HHII", tag, UNDEFINED, 2**20, 8 + 3600) for tag in range(40_000, 40_000 + count)]
    struct.pack_into("<I", out, 4, len(out))
    return bytes(out) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def _directory_at(blob: bytes | bytearray) -> int:
    return int(struct.unpack_from("<I", blob, 4)[0])


def _without(tag: int) -> bytes:
    page = _good()
    blob = bytearray(tiff([page]))
    at = blob.rindex(struct.pack("<H", tag), _directory_at(blob))
    struct.pack_into("<H", blob, at, tag + 30_000)
    return bytes(blob)


def _blocks() -> Iterator[Sample]:
    yield Sample(
        name="tiff claims 65000 x 65000", make=lambda: tiff([picture(65_000, 65_000, [_WHITE])]), ends=refused()
    )
    yield Sample(name="tiff claims 65000 x 60", make=lambda: tiff([picture(65_000, 60, [_WHITE])]), ends=refused())
    yield Sample(
        name="tiff, a million strips of nothing", make=lambda: tiff([picture(60, 10_000, [b""] * 300_000, rows=1)])
    )
    yield Sample(
        name="tiff, a strip for every row", make=lambda: tiff([picture(60, 10_000, [_WHITE[:60]] * 10_000, rows=1)])
    )
    yield Sample(name="tiff, strips of no row", make=lambda: tiff([picture(60, 60, [_WHITE], rows=0)]))
    yield Sample(
        name="tiff, one strip for all of 9900 x 9900",
        make=lambda: tiff(
            [
                Directory(
                    tags=picture(9900, 9900, [], rows=1).tags | {273: (LONG, [8] * 9900), 279: (LONG, [9900] * 9900)},
                    blocks=[_WHITE * 3],
                )
            ]
        ),
    )
    for tile in ((0, 0), (16, 0), (1, 1), (2**31, 2**31), (2**32 - 16, 16)):
        yield Sample(name=f"tiff, tiles of {tile}", make=lambda tile=tile: tiff([picture(60, 60, [_WHITE], tile=tile)]))
    yield Sample(
        name="tiff, tiles of 1 x 1, 9000 x 9000 of them",
        make=lambda: tiff([picture(9000, 9000, [_WHITE[:1]] * 9000, tile=(16, 16))]),
    )
    yield Sample(
        name="tiff, strips that start beyond the file",
        make=lambda: tiff([_good(more={273: (LONG, 2**32 - 1)})]),
        ends=refused(),
    )
    yield Sample(
        name="tiff, strips that are longer than the file",
        make=lambda: tiff([_good(more={279: (LONG, 2**32 - 1)})]),
        ends=refused(),
    )
    yield Sample(
        name="tiff, planes that are not there",
        make=lambda: tiff([picture(60, 60, [_WHITE], bits=(8, 8, 8), photometric=2, more={284: (SHORT, 2)})]),
    )


def _bombs() -> Iterator[Sample]:
    packed = zlib.compress(bytes(100_000_000), 1)
    yield Sample(
        name="tiff deflate bomb, 10000 x 10000",
        make=lambda: tiff([picture(10_000, 10_000, [packed], compression=_DEFLATE)]),
    )
    yield Sample(name="tiff deflate bomb, 100 pages of 10000 x 10000", make=lambda: _many(packed, 100))
    yield Sample(
        name="tiff deflate bomb of colour with alpha",
        make=lambda: tiff(
            [
                picture(
                    9900,
                    9900,
                    [zlib.compress(bytes(392_040_000), 1)],
                    bits=(8, 8, 8, 8),
                    photometric=2,
                    compression=_DEFLATE,
                    more={338: (SHORT, 2)},
                )
            ]
        ),
    )
    yield Sample(
        name="tiff deflate bomb of 16-bit colour",
        make=lambda: tiff(
            [
                picture(
                    7000,
                    7000,
                    [zlib.compress(bytes(294_000_000), 1)],
                    bits=(16, 16, 16),
                    photometric=2,
                    compression=_DEFLATE,
                )
            ]
        ),
    )
    yield Sample(
        name="tiff deflate bomb of real numbers",
        make=lambda: tiff(
            [
                picture(
                    9000,
                    9000,
                    [zlib.compress(bytes(324_000_000), 1)],
                    bits=(32,),
                    compression=_DEFLATE,
                    more={339: (SHORT, 3)},
                )
            ]
        ),
    )
    yield Sample(
        name="tiff, deflate that holds more than its strip",
        make=lambda: tiff([picture(60, 60, [packed], compression=_DEFLATE)]),
    )
    for name in ("group3", "group4", "tiff_lzw", "packbits", "lzma", "zstd", "tiff_ccitt"):
        yield Sample(name=f"tiff {name} bomb", make=partial(_saved, name))
    yield Sample(name="tiff, a JPEG inside that claims 65500 x 65500", make=_lying_jpeg)
    yield Sample(
        name="tiff, old JPEG without its tables",
        make=lambda: tiff(
            [
                _good(
                    compression=_OLD_JPEG,
                    photometric=6,
                    more={512: (SHORT, 1), 513: (LONG, 2**31), 514: (LONG, 2**31), 519: (LONG, [8, 8, 8])},
                )
            ]
        ),
    )
    yield Sample(
        name="tiff, group 3 of noise",
        make=lambda: tiff([picture(9900, 9900, [bytes(range(256)) * 400], bits=(1,), photometric=0, compression=_G3)]),
    )
    yield Sample(
        name="tiff, group 4 of noise",
        make=lambda: tiff([picture(9900, 9900, [bytes(range(256)) * 400], bits=(1,), photometric=0, compression=_G4)]),
    )
    yield Sample(
        name="tiff, LZW of noise", make=lambda: tiff([picture(5000, 5000, [bytes(range(256)) * 400], compression=_LZW)])
    )
    yield Sample(name="tiff, an XMP of a megabyte", make=lambda: tiff([_good(more={700: (BYTE, b"<" * 2**20)})]))


def _many(packed: bytes, count: int) -> bytes:
    """Pages that share one strip."""
    tags = dict(picture(10_000, 10_000, [], compression=_DEFLATE).tags)
    shared = tags | {273: (LONG, 8), 279: (LONG, len(packed))}
    return tiff([Directory(tags=shared, blocks=[packed]), *[Directory(tags=shared)] * (count - 1)])


def _saved(compression: str) -> bytes:
    mode = "1" if compression in ("group3", "group4", "tiff_ccitt") else "L"
    return pages.encoded(Image.new(mode, (9900, 9900), "white"), "TIFF", compression=compression)


def _lying_jpeg() -> bytes:
    blob = bytearray(pages.encoded(Image.new("L", (64, 64), 200), "JPEG"))
    at = blob.index(b"\xff\xc0")
    struct.pack_into(">HH", blob, at + 5, 65_500, 65_500)
    return tiff([picture(64, 64, [bytes(blob)], compression=_JPEG)])
