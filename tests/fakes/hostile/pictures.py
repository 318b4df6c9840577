"""PNG, JPEG, BMP, GIF, WebP and ICO files that lie, swell, or never end."""

import struct
import zlib
from collections.abc import Iterator
from functools import partial

from PIL import Image

from tests import pages
from tests.fakes.hostile.sample import Sample, refused

_PNG = b"\x89PNG\r\n\x1a\n"
_MEGABYTE = 2**20


def samples() -> Iterator[Sample]:
    yield from _pngs()
    yield from _jpegs()
    yield from _bmps()
    yield from _gifs()
    yield from _webps()
    yield from _icons()
    yield from _polyglots()


# ---- PNG


def png(
    width: int,
    height: int,
    *,
    depth: int = 8,
    colour: int = 0,
    interlace: int = 0,
    data: bytes | None = None,
    before: bytes = b"",
    after: bytes = b"",
    pieces: int = 1,
) -> bytes:
    """A PNG with any header; its picture data is empty rows unless given."""
    body = zlib.compress(b"") if data is None else data
    size = max(1, -(-len(body) // pieces))
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        _PNG
        + pages.png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
        + before
        + b"".join(pages.png_chunk(b"IDAT", part) for part in parts)
        + after
        + pages.png_chunk(b"IEND", b"")
    )


def rows(width: int, height: int, bits: int, fill: int = 255) -> bytes:
    """Compressed rows of one value, made a megabyte at a time."""
    row = b"\0" + bytes([fill]) * ((width * bits + 7) // 8)
    packer = zlib.compressobj(1)
    many = max(1, _MEGABYTE // len(row))
    parts = [packer.compress(row * min(many, height - top)) for top in range(0, height, many)]
    return b"".join(parts) + packer.flush()


def _text_chunk(kind: bytes, megabytes: int) -> bytes:
    packed = zlib.compress(bytes(megabytes * _MEGABYTE), 1)
    if kind == b"iTXt":
        return pages.png_chunk(kind, b"key\0\1\0\0\0" + packed)
    if kind == b"iCCP":
        return pages.png_chunk(kind, b"profile\0\0" + packed)
    return pages.png_chunk(kind, b"key\0\0" + packed)


def _pngs() -> Iterator[Sample]:
    for width, height in ((65_000, 65_000), (65_000, 60), (60, 65_000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 99)):
        yield Sample(
            name=f"png claims {width} x {height}",
            make=partial(png, width, height),
            ends=refused("InvalidImageDimension", "InvalidImage"),
        )
    for size in ((0, 0), (0, 60), (60, 0)):
        yield Sample(name=f"png of {size}", make=partial(png, *size), ends=refused())
    yield Sample(
        name="png bomb, 10000 x 10000 of a bit", make=lambda: png(10_000, 10_000, depth=1, data=rows(10_000, 10_000, 1))
    )
    yield Sample(name="png bomb, 10000 x 10000 gray", make=lambda: png(10_000, 10_000, data=rows(10_000, 10_000, 8)))
    yield Sample(
        name="png bomb, 10000 x 10000 of 16 bits",
        make=lambda: png(10_000, 10_000, depth=16, data=rows(10_000, 10_000, 16)),
    )
    yield Sample(
        name="png bomb, 10000 x 10000 colour", make=lambda: png(10_000, 10_000, colour=2, data=rows(10_000, 10_000, 24))
    )
    yield Sample(
        name="png bomb, 10000 x 10000 deep colour with alpha",
        make=lambda: png(10_000, 10_000, depth=16, colour=6, data=rows(10_000, 10_000, 64)),
    )
    yield Sample(
        name="png bomb, 8000 x 8000 interlaced", make=lambda: png(8000, 8000, interlace=1, data=rows(8000, 16_000, 8))
    )
    yield Sample(name="png, more rows than it says", make=lambda: png(60, 60, data=rows(60, 20_000_000, 8)))
    yield Sample(name="png, fewer rows than it says", make=lambda: png(600, 600, data=rows(600, 300, 8)))
    for kind in (b"zTXt", b"iTXt", b"iCCP"):
        for megabytes in (1, 900):
            yield Sample(
                name=f"png {kind.decode()} of {megabytes} MB",
                make=lambda kind=kind, megabytes=megabytes: png(
                    60, 60, data=rows(60, 60, 8), before=_text_chunk(kind, megabytes)
                ),
            )
    yield Sample(
        name="png, a hundred zTXt of 9 MB",
        make=lambda: png(60, 60, data=rows(60, 60, 8), before=_text_chunk(b"zTXt", 9) * 100),
    )
    yield Sample(
        name="png, a million tiny chunks",
        make=lambda: png(60, 60, data=rows(60, 60, 8), before=pages.png_chunk(b"teSt", b"") * 300_000),
    )
    yield Sample(
        name="png, zero-length IDATs",
        make=lambda: png(60, 60, data=rows(60, 60, 8), before=pages.png_chunk(b"IDAT", b"") * 150_000),
    )
    yield Sample(
        name="png, IDATs of one byte",
        make=lambda: png(3000, 3000, data=zlib.compress(bytes(9_003_000), 0)[:190_000], pieces=190_000),
    )
    yield Sample(
        name="png, a chunk that claims 4 GB", make=lambda: png(60, 60, before=struct.pack(">I", 2**32 - 1) + b"teSt")
    )
    yield Sample(
        name="png, APNG of 100000 frames",
        make=lambda: png(
            60,
            60,
            data=rows(60, 60, 8),
            before=pages.png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
            + pages.png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 2**31, 2**31, 2**31, 2**31, 1, 1, 0, 0)),
        ),
    )
    for depth, colour in ((3, 0), (16, 3), (1, 2), (8, 5), (0, 0), (255, 255)):
        yield Sample(
            name=f"png of {depth} bits and colour {colour}",
            make=partial(png, 60, 60, depth=depth, colour=colour),
            ends=refused(),
        )
    yield Sample(name="png, palette missing", make=lambda: png(60, 60, colour=3, data=rows(60, 60, 8)))
    yield Sample(
        name="png, tRNS longer than the palette",
        make=lambda: png(
            60,
            60,
            colour=3,
            data=rows(60, 60, 8),
            before=pages.png_chunk(b"PLTE", b"abc") + pages.png_chunk(b"tRNS", bytes(1000)),
        ),
    )
    yield Sample(
        name="png, eXIf that loops",
        make=lambda: png(60, 60, data=rows(60, 60, 8), before=pages.png_chunk(b"eXIf", _looping_exif())),
    )


def _looping_exif() -> bytes:
    """Two tags, the second an IFD that is the first again."""
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<HHII", 0x0112, 3, 1, 6)
    return b"II*\0" + struct.pack("<IH", 8, 2) + entry + struct.pack("<I", 8)


# ---- JPEG


def jpeg(size: tuple[int, int] = (600, 400), **options: object) -> bytes:
    return pages.encoded(Image.linear_gradient("L").resize(size).convert("RGB"), "JPEG", **options)


def _claiming(blob: bytes, width: int, height: int) -> bytes:
    """The same with another size in its frame header."""
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        at = blob.find(marker)
        if at > 0:
            return blob[: at + 5] + struct.pack(">HH", height, width) + blob[at + 9 :]
    raise ValueError("no frame header")


def _scans(blob: bytes, times: int) -> bytes:
    """A progressive JPEG whose last scan is there many times over."""
    at = blob.rindex(b"\xff\xda")
    return blob[:at] + blob[at:-2] * times + b"\xff\xd9"


def _dc_scans(width: int, height: int, times: int) -> bytes:
    """A large progressive picture and many empty scans over it: little to send, much to walk through."""
    small = pages.encoded(Image.new("L", (64, 64), 200), "JPEG", progressive=True)
    start = small.index(b"\xff\xda")
    scan = small[start : start + 10] + b"\xff\x00" * 4
    return _claiming(small, width, height)[:start] + scan * times + b"\xff\xd9"


def _jpegs() -> Iterator[Sample]:
    for width, height in ((65_500, 65_500), (65_500, 60), (15_000, 15_000), (0, 60), (60, 0)):
        yield Sample(
            name=f"jpeg claims {width} x {height}",
            make=lambda width=width, height=height: _claiming(jpeg(), width, height),
        )
    yield Sample(name="progressive jpeg claims 9900 x 9900", make=lambda: _claiming(jpeg(progressive=True), 9900, 9900))
    yield Sample(
        name="progressive jpeg of 15000 scans", make=lambda: _scans(jpeg((300, 200), progressive=True), 15_000)
    )
    yield Sample(name="progressive jpeg of 3000 scans over 9900 x 9900", make=lambda: _dc_scans(9900, 9900, 3000))
    yield Sample(name="progressive jpeg of 100 scans over 4000 x 4000", make=lambda: _dc_scans(4000, 4000, 100))
    yield Sample(name="jpeg, 100000 comments", make=lambda: jpeg()[:2] + b"\xff\xfe\x00\x04hi" * 100_000 + jpeg()[2:])
    yield Sample(name="jpeg, 300000 comments", make=lambda: jpeg()[:2] + b"\xff\xfe\x00\x04hi" * 300_000 + jpeg()[2:])
    yield Sample(name="jpeg, a megabyte of fill bytes", make=lambda: jpeg()[:2] + b"\xff" * _MEGABYTE + jpeg()[2:])
    yield Sample(name="jpeg, a segment of length 0", make=lambda: jpeg()[:2] + b"\xff\xe1\0\0" + jpeg()[2:])
    yield Sample(name="jpeg, EXIF that loops", make=lambda: jpeg(exif=b"Exif\0\0" + _looping_exif()))
    yield Sample(
        name="jpeg, 255 parts of a profile",
        make=lambda: (
            jpeg()[:2]
            + b"".join(b"\xff\xe2\xff\xff" + b"ICC_PROFILE\0" + bytes([n, 255]) + bytes(65_519) for n in range(1, 256))
            + jpeg()[2:]
        ),
    )
    yield Sample(
        name="jpeg, restart markers only",
        make=lambda: jpeg(restart_marker_rows=1)[:700] + b"\xff\xd0\xff\xd1" * 100_000 + b"\xff\xd9",
    )
    yield Sample(name="jpeg, MPO that points beyond its end", make=_mpo_beyond)
    yield Sample(
        name="jpeg, photoshop blocks without end",
        make=lambda: (
            jpeg()[:2]
            + b"\xff\xed\xff\xff"
            + (b"Photoshop 3.0\0" + b"8BIM\x03\xed\x00\x00\x00\x00\x00\x00" * 9000)[:65_533]
            + jpeg()[2:]
        ),
    )
    yield Sample(
        name="jpeg, huffman table that overflows",
        make=lambda: jpeg().replace(b"\xff\xc4", b"\xff\xc4\x00\x13\x00" + b"\xff" * 16 + b"\xff\xc4", 1),
        ends=refused(),
    )
    yield Sample(name="jpeg, arithmetic coding", make=lambda: jpeg().replace(b"\xff\xc0", b"\xff\xc9", 1))
    yield Sample(name="jpeg, lossless", make=lambda: jpeg().replace(b"\xff\xc0", b"\xff\xc3", 1))
    yield Sample(name="jpeg, sampling factors of 0", make=lambda: _sampling(0x00), ends=refused())
    yield Sample(name="jpeg, sampling factors of 15", make=lambda: _sampling(0xFF), ends=refused())


def _sampling(factors: int) -> bytes:
    blob = bytearray(jpeg())
    at = blob.index(b"\xff\xc0")
    for layer in range(3):
        blob[at + 11 + 3 * layer] = factors
    return bytes(blob)


def _mpo_beyond() -> bytes:
    page = pages.printed_page(pages.LINES[:1], size=(300, 200))
    blob = bytearray(pages.as_mpo([page, page]))
    at = blob.index(b"MPF\0")
    blob[at + 60 : at + 90] = b"\xff" * 30
    return bytes(blob)


# ---- BMP


def bmp(
    width: int,
    height: int,
    *,
    bits: int = 24,
    compression: int = 0,
    data: bytes = b"",
    colours: int = 0,
    header: int = 40,
    offset: int | None = None,
) -> bytes:
    """A BMP with any header."""
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, len(data), 2835, 2835, colours, 0)
    palette = bytes(4 * min(256, colours or (1 << bits if bits <= 8 else 0)))
    start = 14 + len(info) + len(palette) if offset is None else offset
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(palette) + len(data), 0, 0, start) + info + palette + data


def _bmps() -> Iterator[Sample]:
    for width, height in ((65_000, 65_000), (2**31 - 1, 2**31 - 1), (-600, 400), (600, -(2**31)), (0, 60)):
        yield Sample(
            name=f"bmp claims {width} x {height}", make=partial(bmp, width, height, data=bytes(1000)), ends=refused()
        )
    yield Sample(name="bmp, rows that are not there", make=partial(bmp, 9000, 9000, data=bytes(1000)), ends=refused())
    yield Sample(
        name="bmp, RLE8 that jumps",
        make=lambda: bmp(9000, 9000, bits=8, compression=1, data=b"\0\2\xff\xff" * 50_000 + b"\0\1"),
    )
    yield Sample(
        name="bmp, RLE8 that is one end of line",
        make=lambda: bmp(9000, 9000, bits=8, compression=1, data=b"\0\0" * 9000 + b"\0\1"),
    )
    yield Sample(
        name="bmp, RLE8 without end", make=lambda: bmp(9000, 9000, bits=8, compression=1, data=b"\xff\x01" * 500_000)
    )
    yield Sample(
        name="bmp, RLE8 of endless lines",
        make=lambda: bmp(60, 60, bits=8, compression=1, data=b"\0\0" * 2_000_000 + b"\0\1"),
    )
    yield Sample(
        name="bmp, RLE4 that jumps", make=lambda: bmp(9000, 9000, bits=4, compression=2, data=b"\0\2\xff\xff" * 50_000)
    )
    yield Sample(
        name="bmp, RLE8 runs of nothing",
        make=lambda: bmp(9000, 9000, bits=8, compression=1, data=b"\0\xff" + b"a" * 10),
    )
    for bits in (0, 2, 3, 7, 48, 64, 65_535):
        yield Sample(name=f"bmp of {bits} bits", make=partial(bmp, 60, 60, bits=bits, data=bytes(99_999)))
    for compression in (3, 4, 5, 6, 11, 2**32 - 1):
        yield Sample(
            name=f"bmp compressed as {compression}",
            make=partial(bmp, 60, 60, compression=compression, data=bytes(99_999)),
        )
    yield Sample(
        name="bmp of four thousand million colours",
        make=partial(bmp, 60, 60, bits=8, colours=2**32 - 1, data=bytes(99_999)),
    )
    yield Sample(
        name="bmp, a header of 2 GB", make=partial(bmp, 60, 60, header=2**31 - 1, data=bytes(99_999)), ends=refused()
    )
    yield Sample(name="bmp, pixels before the file", make=partial(bmp, 60, 60, offset=0, data=bytes(99_999)))
    yield Sample(
        name="bmp, pixels beyond the file",
        make=partial(bmp, 60, 60, offset=2**32 - 1, data=bytes(99_999)),
        ends=refused(),
    )


# ---- GIF, WebP, ICO: the widest caller takes them


def _gif(width: int, height: int, frames: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frames + b";"


def _frame(width: int, height: int, data: bytes, *, left: int = 0, top: int = 0) -> bytes:
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + b"\x02" + blocks + b"\0"


def _gifs() -> Iterator[Sample]:
    yield Sample(
        name="gif claims 65535 x 65535", make=lambda: _gif(65_535, 65_535, _frame(65_535, 65_535, b"\x44\x01"))
    )
    yield Sample(
        name="gif, 15000 x 15000 of a few bytes", make=lambda: _gif(15_000, 15_000, _frame(15_000, 15_000, b"\x44\x01"))
    )
    yield Sample(
        name="gif, a frame that moves the canvas",
        make=lambda: _gif(60, 60, _frame(60, 60, b"\x44\x01", left=65_000, top=65_000)),
    )
    yield Sample(name="gif bomb", make=lambda: pages.encoded(Image.new("L", (9000, 9000), 255), "GIF"))
    yield Sample(name="gif of 100000 frames", make=lambda: _gif(60, 60, _frame(60, 60, b"\x44\x01") * 100_000))
    yield Sample(
        name="gif, codes of 255 bits",
        make=lambda: _gif(60, 60, _frame(60, 60, b"\x44\x01").replace(b"\x02\x02", b"\xff\x02")),
    )
    yield Sample(
        name="gif, comments without end",
        make=lambda: _gif(60, 60, (b"!\xfe\xff" + b"a" * 255 + b"\0") * 20_000 + _frame(60, 60, b"\x44\x01")),
    )


def _riff(*chunks: tuple[bytes, bytes], length: int | None = None) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) if length is None else length) + body


def _extended(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    return b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def _webps() -> Iterator[Sample]:
    small = pages.encoded(Image.new("RGB", (60, 60), "white"), "WEBP", lossless=True)
    picture = (small[12:16], small[20:])
    yield Sample(name="webp claims 16777216 x 16777216", make=lambda: _riff(_extended(2**24, 2**24), picture))
    yield Sample(name="webp, a canvas larger than its picture", make=lambda: _riff(_extended(15_000, 15_000), picture))
    yield Sample(
        name="webp, an animation of nothing", make=lambda: _riff(_extended(9000, 9000, 2), (b"ANIM", bytes(6)))
    )
    yield Sample(
        name="webp, frames without end",
        make=lambda: _riff(
            _extended(900, 900, 2),
            (b"ANIM", bytes(6)),
            *[(b"ANMF", bytes(6) + (59).to_bytes(3, "little") * 2 + b"\1\0\0\0" + small[12:])] * 20_000,
        ),
    )
    yield Sample(
        name="webp bomb",
        make=lambda: pages.encoded(Image.new("RGB", (9000, 9000), "white"), "WEBP", lossless=True, method=0),
    )
    yield Sample(name="webp, a length of 4 GB", make=lambda: _riff(picture, length=2**32 - 1), ends=refused())
    yield Sample(
        name="webp, metadata without end",
        make=lambda: _riff(_extended(60, 60, 0x0C), picture, *[(b"EXIF", _looping_exif())] * 50_000),
    )
    yield Sample(
        name="webp, VP8L of 16384 x 16384",
        make=lambda: _riff((b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(50))),
    )


def _icons() -> Iterator[Sample]:
    nested = pages.as_ico([pages.encoded(Image.new("L", (60, 60)), "PNG")])
    for _ in range(20):
        nested = pages.as_ico([nested])
    yield Sample(name="ico in an ico in an ico", make=lambda: nested, ends=refused())
    yield Sample(name="ico of 65535 pictures", make=lambda: b"\0\0\1\0\xff\xff" + bytes(16 * 65_535))
    yield Sample(name="ico of 200 pictures, all the same megabyte", make=lambda: _shared_icons(200))
    yield Sample(
        name="ico, a PNG bomb in it", make=lambda: pages.as_ico([png(15_000, 15_000, data=rows(15_000, 15_000, 8))])
    )
    yield Sample(
        name="ico, a bitmap that claims 1000 x 1000",
        make=lambda: pages.as_ico([struct.pack("<IiiHHIIiiII", 40, 1000, 2000, 1, 32, 0, 0, 0, 0, 0, 0)]),
    )
    yield Sample(
        name="ico, pictures before the file",
        make=lambda: struct.pack("<HHHBBBBHHII", 0, 1, 1, 60, 60, 0, 0, 1, 32, 99, 0),
    )


def _shared_icons(count: int) -> bytes:
    picture = png(1000, 1000, data=rows(1000, 1000, 8, 7))
    directory = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(picture), 6 + 16 * count) * count
    return struct.pack("<HHH", 0, 1, count) + directory + picture


def _polyglots() -> Iterator[Sample]:
    page = pages.printed_page(pages.LINES[:1], size=(300, 200))
    yield Sample(name="a PDF behind a PNG", make=lambda: pages.as_png(page) + pages.digital_pdf([pages.LINES]))
    yield Sample(
        name="a PDF inside a JPEG's comment",
        make=lambda: (
            jpeg()[:2]
            + b"\xff\xfe"
            + struct.pack(">H", 2 + len(pages.digital_pdf([pages.LINES])))
            + pages.digital_pdf([pages.LINES])
            + jpeg()[2:]
        ),
    )
    yield Sample(name="a ZIP that is a PDF", make=lambda: b"PK\3\4" + bytes(26) + pages.digital_pdf([pages.LINES]))
    yield Sample(name="a script that is a BMP", make=lambda: b"BM=1;/*" + bytes(60) + b"*/", ends=refused())
    yield Sample(name="text", make=lambda: b"Not an image at all.\n" * 5000, ends=refused("InvalidImage"))
    yield Sample(name="zeros", make=lambda: bytes(_MEGABYTE), ends=refused("InvalidImage"))
    yield Sample(name="one byte", make=lambda: b"\xff", ends=refused("InvalidImage"))
    yield Sample(
        name="SVG with entities",
        make=lambda: b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">]><svg>&a;</svg>',
        ends=refused("UnsupportedImageFormat", "InvalidImage"),
    )
    yield Sample(name="a Netpbm of a negative size", make=lambda: b"P6 -1 -1 255\n", ends=refused())
    noise = Image.effect_noise((1600, 1600), 200)
    yield Sample(name="noise", make=lambda: pages.encoded(noise, "PNG"))
    yield Sample(
        name="checkerboard",
        make=lambda: pages.encoded(Image.frombytes("1", (3000, 3000), b"\xaa\x55" * 562_500), "PNG"),
    )
    yield Sample(
        name="a wall of letters",
        make=lambda: pages.as_png(
            pages.printed_page(["the quick brown fox jumps " * 12] * 200, size=(2400, 3200), points=5, dpi=150)
        ),
    )
