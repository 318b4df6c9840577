"""PDF files that loop, nest, swell, or draw without end."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from functools import partial

from PIL import Image

from tests import pages
from tests.fakes import pdf_pictures
from tests.fakes.hostile.sample import Sample, refused

_MEGABYTE = 2**20
_TILE = 1024
_FONT = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
_TEXT = b"BT /F1 12 Tf 72 700 Td (Every page is counted once.) Tj ET"


def samples() -> Iterator[Sample]:
    yield from _trees()
    yield from _tables()
    yield from _boxes()
    yield from _bombs()
    yield from _images()
    yield from _drawing()
    yield from _annotations()
    yield from _encryption()


# ---- building


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<< %s /Length %d >>\nstream\n%s\nendstream" % (entries, len(content), content)


def assembled(objects: Mapping[int, bytes], trailer: bytes = b"", *, root: bytes = b"1 0 R") -> bytes:
    """The objects, a table and a trailer."""
    out = bytearray(b"%PDF-1.7\n")
    offsets = {}
    for number in sorted(objects):
        offsets[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, objects[number])
    start = len(out)
    out += b"xref\n0 1\n0000000000 65535 f \n"
    for number in sorted(objects):
        out += b"%d 1\n%010d 00000 n \n" % (number, offsets[number])
    out += b"trailer\n<< /Size %d /Root %s %s >>\nstartxref\n%d\n%%%%EOF\n" % (max(objects) + 1, root, trailer, start)
    return bytes(out)


def one_page(
    content: bytes = _TEXT,
    *,
    resources: bytes = b"",
    page: bytes = b"",
    box: bytes = b"[0 0 612 792]",
    objects: Mapping[int, bytes] | None = None,
    contents: bytes | None = None,
    trailer: bytes = b"",
    catalog: bytes = b"",
) -> bytes:
    """A page whose content, resources, entries and further objects (from 10 on) are given."""
    return assembled(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
            2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            3: b"<< /Type /Page /Parent 2 0 R /MediaBox %s /Contents 4 0 R "
            b"/Resources << /Font << /F1 5 0 R >> %s >> %s >>" % (box, resources, page),
            4: stream(content) if contents is None else contents,
            5: _FONT,
            **(objects or {}),
        },
        trailer,
    )


def _bomb(megabytes: int, fill: bytes = b" ") -> bytes:
    packer = zlib.compressobj(9)
    block = fill * (_MEGABYTE // len(fill))
    return b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()


# ---- pages and tables


def _trees() -> Iterator[Sample]:
    catalog = b"<< /Type /Catalog /Pages 2 0 R >>"
    leaf = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] >>"
    yield Sample(
        name="pdf, pages that hold themselves",
        make=lambda: assembled({1: catalog, 2: b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 2 >>"}),
    )
    yield Sample(
        name="pdf, pages that hold each other",
        make=lambda: assembled(
            {
                1: catalog,
                2: b"<< /Type /Pages /Kids [3 0 R] /Count 9 >>",
                3: b"<< /Type /Pages /Parent 2 0 R /Kids [2 0 R] /Count 9 >>",
            }
        ),
    )
    yield Sample(
        name="pdf, the catalogue as its pages",
        make=lambda: assembled({1: b"<< /Type /Catalog /Pages 1 0 R /Kids [1 0 R] /Count 3 >>"}),
    )
    for depth in (100, 1100, 20_000):
        yield Sample(name=f"pdf, pages {depth} deep", make=partial(_deep, depth))
    yield Sample(name="pdf, pages 9 deep of 9 each that are the same", make=lambda: _wide(9, 9))
    for count in (-1, 0, 1999, 2**31 - 1, 2**40):
        yield Sample(
            name=f"pdf that counts {count} pages and has one",
            make=lambda count=count: assembled(
                {1: catalog, 2: b"<< /Type /Pages /Kids [3 0 R] /Count %d >>" % count, 3: leaf}
            ),
        )
    yield Sample(
        name="pdf of 10000 pages",
        make=lambda: assembled(
            {
                1: catalog,
                2: b"<< /Type /Pages /Kids [%s] /Count 10000 >>" % b" ".join(b"%d 0 R" % n for n in range(3, 10_003)),
                **dict.fromkeys(range(3, 10_003), leaf),
            }
        ),
        ends=refused("InvalidPageRange"),
    )
    yield Sample(
        name="pdf of one page 10000 times",
        make=lambda: assembled(
            {1: catalog, 2: b"<< /Type /Pages /Kids [%s] /Count 10000 >>" % (b"3 0 R " * 10_000), 3: leaf}
        ),
        ends=refused(),
    )
    yield Sample(
        name="pdf of one page a million times",
        make=lambda: assembled(
            {1: catalog, 2: b"<< /Type /Pages /Kids [%s] /Count 1000000 >>" % (b"3 0 R " * 1_000_000), 3: leaf}
        ),
        ends=refused(),
    )
    yield Sample(
        name="pdf of pages without Count",
        make=lambda: assembled({1: catalog, 2: b"<< /Type /Pages /Kids [%s] >>" % (b"3 0 R " * 300_000), 3: leaf}),
    )
    yield Sample(
        name="pdf of 2000 pages that share one content",
        make=lambda: assembled(
            {1: catalog, 2: b"<< /Type /Pages /Kids [%s] /Count 2000 >>" % (b"3 0 R " * 2000), 3: leaf}
        ),
    )
    yield Sample(
        name="pdf, a page that is a number",
        make=lambda: assembled({1: catalog, 2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>", 3: b"42"}),
    )
    yield Sample(
        name="pdf, a page that is the catalogue",
        make=lambda: assembled({1: catalog, 2: b"<< /Type /Pages /Kids [1 0 R] /Count 1 >>"}),
    )
    yield Sample(
        name="pdf, parents that loop",
        make=lambda: assembled(
            {
                1: catalog,
                2: b"<< /Type /Pages /Kids [3 0 R] /Count 1 /Parent 4 0 R >>",
                3: b"<< /Type /Page /Parent 4 0 R >>",
                4: b"<< /Type /Pages /Parent 2 0 R >>",
            }
        ),
    )


def _deep(depth: int) -> bytes:
    objects = {1: b"<< /Type /Catalog /Pages 2 0 R >>"}
    for number in range(2, 2 + depth):
        objects[number] = b"<< /Type /Pages /Parent %d 0 R /Kids [%d 0 R] /Count 1 >>" % (number - 1, number + 1)
    objects[2 + depth] = b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 612 792] >>" % (1 + depth)
    return assembled(objects)


def _wide(depth: int, each: int) -> bytes:
    """A small file whose pages, counted one by one, are each ** depth."""
    objects = {1: b"<< /Type /Catalog /Pages 2 0 R >>"}
    for number in range(2, 2 + depth):
        objects[number] = b"<< /Type /Pages /Kids [%s] >>" % (b"%d 0 R " % (number + 1) * each)
    objects[2 + depth] = b"<< /Type /Page /MediaBox [0 0 612 792] >>"
    return assembled(objects)


def _tables() -> Iterator[Sample]:
    good = one_page()
    body, start = good[: good.index(b"xref\n")], good.index(b"xref\n")
    yield Sample(
        name="pdf, a table that comes before itself",
        make=lambda: one_page(trailer=b"/Prev %d" % one_page().index(b"xref\n")),
    )
    yield Sample(name="pdf, a table in the middle of nowhere", make=lambda: body + b"startxref\n99999999999\n%%EOF")
    yield Sample(name="pdf without any table", make=lambda: body)
    yield Sample(
        name="pdf, a table of 2**31 entries", make=lambda: good.replace(b"xref\n0 1\n", b"xref\n0 2147483647\n")
    )
    yield Sample(name="pdf, a trailer of size 2**31", make=lambda: good.replace(b"/Size 6", b"/Size 2147483647"))
    yield Sample(name="pdf, a thousand tables", make=lambda: _tables_in_a_row(body, start, 1000))
    yield Sample(
        name="pdf, objects that refer to themselves",
        make=lambda: one_page(
            objects={10: b"10 0 R", 11: b"12 0 R", 12: b"11 0 R"}, page=b"/Rotate 10 0 R /CropBox 11 0 R"
        ),
    )
    yield Sample(
        name="pdf, a stream whose length is itself",
        make=lambda: one_page(contents=b"<< /Length 4 0 R >>\nstream\n" + _TEXT + b"\nendstream"),
    )
    yield Sample(
        name="pdf, a stream longer than the file",
        make=lambda: one_page(contents=b"<< /Length 2147483647 >>\nstream\n" + _TEXT + b"\nendstream"),
    )
    yield Sample(
        name="pdf, a stream of negative length",
        make=lambda: one_page(contents=b"<< /Length -5 >>\nstream\n" + _TEXT + b"\nendstream"),
    )
    yield Sample(name="pdf, objects in a stream of objects in itself", make=_own_object_stream)
    yield Sample(name="pdf, streams of objects that extend each other", make=_extending_object_streams)
    yield Sample(
        name="pdf, a stream of objects that is a bomb",
        make=lambda: _object_stream(zlib.compress(b"1 0 2 60 " + bytes(500 * _MEGABYTE), 1), 2),
    )
    yield Sample(
        name="pdf, a stream of 2**31 objects", make=lambda: _object_stream(zlib.compress(b"1 0 <<>>"), 2**31 - 1)
    )
    yield Sample(name="pdf, a table stream of wide fields", make=lambda: _table_stream(b"/W [8 8 8] /Size 2147483647"))
    yield Sample(
        name="pdf, a table stream that is a bomb",
        make=lambda: _table_stream(b"/W [1 4 1] /Size 99999999", bytes(600 * _MEGABYTE)),
    )
    yield Sample(
        name="pdf, a million objects", make=lambda: one_page(objects=dict.fromkeys(range(10, 100_000), b"null"))
    )
    yield Sample(
        name="pdf, a million objects and no table",
        make=lambda: b"%PDF-1.7\n" + b"".join(b"%d 0 obj null endobj\n" % n for n in range(300_000)),
    )
    yield Sample(
        name="pdf, arrays 100000 deep", make=lambda: one_page(page=b"/Deep " + b"[" * 100_000 + b"]" * 100_000)
    )
    yield Sample(
        name="pdf, dictionaries 100000 deep",
        make=lambda: one_page(page=b"/Deep " + b"<</D " * 100_000 + b"0" + b">>" * 100_000),
    )
    yield Sample(
        name="pdf, a string of a megabyte of brackets", make=lambda: one_page(page=b"/Deep (" + b"(" * _MEGABYTE)
    )
    yield Sample(
        name="pdf, a page of half a megabyte of dictionaries",
        make=lambda: one_page(
            page=b"/UserUnit 2 /X " + b"<</D " * 400 + b"0" + b">>" * 400 + b"/Y [" + b"<< /A 1 >> " * 40_000 + b"]"
        ),
    )
    yield Sample(name="pdf, only its first line", make=lambda: b"%PDF-1.7\n", ends=refused("InvalidImage"))
    yield Sample(
        name="pdf, a megabyte of first lines", make=lambda: b"%PDF-1.7\n" * 100_000, ends=refused("InvalidImage")
    )
    yield Sample(
        name="pdf, linearised and lying",
        make=lambda: (
            b"%PDF-1.7\n9 0 obj << /Linearized 1 /L 2147483647 /H [ 1 2147483647 ] /O 3 /E 2147483647 /N 2147483647 /T 2147483647 >> endobj\n"
            + good[9:]
        ),
    )


def _tables_in_a_row(body: bytes, start: int, count: int) -> bytes:
    out = bytearray(body)
    previous = b""
    for _ in range(count):
        at = len(out)
        out += b"xref\n0 1\n0000000000 65535 f \ntrailer\n<< /Size 6 /Root 1 0 R %s >>\n" % previous
        previous = b"/Prev %d" % at
    return bytes(out) + b"startxref\n%d\n%%%%EOF\n" % at


def _packed(objects: Mapping[int, bytes], places: list[tuple[int, int, int]]) -> bytes:
    """Plain objects, and a table stream that says where all of them lie; a place of None is filled in."""
    out = bytearray(b"%PDF-1.7\n")
    found = {}
    for number, body in objects.items():
        found[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    table = b""
    for number, (kind, where, index) in enumerate(places):
        table += struct.pack(">BIH", kind, found.get(number, start) if kind == 1 else where, index)
    out += b"%d 0 obj\n" % (len(places) - 1)
    out += stream(table, b"/Type /XRef /Size %d /Root 1 0 R /W [1 4 2]" % len(places)) + b"\nendobj\n"
    return bytes(out) + b"startxref\n%d\n%%%%EOF\n" % start


def _object_stream(packed: bytes, count: int, entries: bytes = b"") -> bytes:
    body = stream(packed, b"/Type /ObjStm /N %d /First 9 /Filter /FlateDecode %s" % (count, entries))
    return _packed({3: body}, [(0, 0, 0), (2, 3, 0), (2, 3, 1), (1, 0, 0), (1, 0, 0)])


def _own_object_stream() -> bytes:
    body = stream(b"1 0 3 20 << /Type /Catalog /Pages 3 0 R >> << >>", b"/Type /ObjStm /N 2 /First 9")
    return _packed({4: body}, [(0, 0, 0), (2, 3, 0), (2, 3, 1), (2, 3, 1), (1, 0, 0), (1, 0, 0)])


def _extending_object_streams() -> bytes:
    one = stream(b"1 0 2 40 << /Type /Catalog /Pages 2 0 R >>", b"/Type /ObjStm /N 2 /First 9 /Extends 4 0 R")
    two = stream(b"1 0 2 40 << /Type /Catalog /Pages 2 0 R >>", b"/Type /ObjStm /N 2 /First 9 /Extends 3 0 R")
    return _packed({3: one, 4: two}, [(0, 0, 0), (2, 3, 0), (2, 3, 1), (1, 0, 0), (1, 0, 0), (1, 0, 0)])


def _table_stream(entries: bytes, data: bytes = b"\1\0\0\0\0\0" * 9) -> bytes:
    body = stream(zlib.compress(data, 1), b"/Type /XRef /Root 1 0 R /Filter /FlateDecode " + entries)
    return b"%PDF-1.7\n1 0 obj\n" + body + b"\nendobj\nstartxref\n9\n%%EOF\n"


def _boxes() -> Iterator[Sample]:
    for box in (
        b"[0 0 1000000 1000000]", b"[0 0 1e38 1e38]", b"[0 0 0 0]", b"[612 792 0 0]", b"[0 0 -5 -5]", b"[0 0 0.001 0.001]",
        b"[0 0 1e9 0.5]", b"[0 0 0.5 1e9]", b"[-1e30 -1e30 1e30 1e30]", b"[0 0 612]", b"[(a) (b) (c) (d)]", b"null", b"[0 0 nan inf]",
        b"[2147483647 2147483647 2147483648 2147483648]", b"[0 0 3 40000]",
    ):  # fmt: skip
        yield Sample(name=f"pdf, a sheet of {box.decode()}", make=lambda box=box: one_page(box=box))
    for unit in (b"1e30", b"0", b"-1", b"75000", b"99999999999999999999", b"1e-30"):
        yield Sample(name=f"pdf, units of {unit.decode()}", make=lambda unit=unit: one_page(page=b"/UserUnit " + unit))
    for turn in (b"45", b"2147483647", b"-90", b"450", b"1e9", b"(90)"):
        yield Sample(name=f"pdf, turned by {turn.decode()}", make=lambda turn=turn: one_page(page=b"/Rotate " + turn))
    for crop in (b"[9000 9000 9001 9001]", b"[0 0 0 0]", b"[1e30 1e30 -1e30 -1e30]"):
        yield Sample(name=f"pdf, cropped to {crop.decode()}", make=lambda crop=crop: one_page(page=b"/CropBox " + crop))


# ---- bombs


def _bombs() -> Iterator[Sample]:
    yield Sample(
        name="pdf, a content of 900 MB of spaces",
        make=lambda: one_page(contents=stream(_bomb(900), b"/Filter /FlateDecode")),
    )
    yield Sample(
        name="pdf, a content of 300 MB of commands",
        make=lambda: one_page(contents=stream(_bomb(300, b"q Q "), b"/Filter /FlateDecode")),
    )
    yield Sample(
        name="pdf, a content of 100 MB of lines",
        make=lambda: one_page(contents=stream(_bomb(100, b"0 0 m 9 9 l S "), b"/Filter /FlateDecode")),
    )
    yield Sample(
        name="pdf, a bomb in a bomb",
        make=lambda: one_page(contents=stream(zlib.compress(_bomb(3000), 9), b"/Filter [/FlateDecode /FlateDecode]")),
    )
    yield Sample(
        name="pdf, a hundred filters",
        make=lambda: one_page(contents=stream(_TEXT, b"/Filter [" + b"/ASCIIHexDecode " * 100 + b"]")),
    )
    yield Sample(
        name="pdf, a hundred thousand filters",
        make=lambda: one_page(contents=stream(_TEXT, b"/Filter [" + b"/FlateDecode " * 100_000 + b"]")),
    )
    yield Sample(
        name="pdf, LZW without end",
        make=lambda: one_page(contents=stream(bytes(range(256)) * 4000, b"/Filter /LZWDecode")),
    )
    yield Sample(
        name="pdf, run lengths without end",
        make=lambda: one_page(contents=stream(b"\x81a" * 500_000, b"/Filter /RunLengthDecode")),
    )
    yield Sample(
        name="pdf, run lengths in a bomb",
        make=lambda: one_page(contents=stream(_bomb(20, b"\x81a"), b"/Filter [/FlateDecode /RunLengthDecode]")),
    )
    yield Sample(
        name="pdf, a predictor of wide rows",
        make=lambda: one_page(
            contents=stream(
                _bomb(10),
                b"/Filter /FlateDecode /DecodeParms << /Predictor 15 /Columns 2147483647 /Colors 32 /BitsPerComponent 32 >>",
            )
        ),
    )
    yield Sample(
        name="pdf, contents of 100000 parts",
        make=lambda: one_page(contents=b"[" + b"6 0 R " * 100_000 + b"]", objects={6: stream(_TEXT)}),
    )
    yield Sample(
        name="pdf, contents of 20000 bombs",
        make=lambda: one_page(
            contents=b"[" + b"6 0 R " * 20_000 + b"]", objects={6: stream(_bomb(8), b"/Filter /FlateDecode")}
        ),
    )


def _images() -> Iterator[Sample]:
    def image(entries: bytes, data: bytes, content: bytes = b"612 0 0 792 0 0 cm /I Do", **others: bytes) -> bytes:
        return one_page(
            content,
            resources=b"/XObject << /I 10 0 R >>",
            objects={10: stream(data, b"/Type /XObject /Subtype /Image " + entries)},
        )

    gray = b"/ColorSpace /DeviceGray /BitsPerComponent 8 "
    for side in (10_000, 20_000, 30_000):
        yield Sample(
            name=f"pdf, a picture of {side} x {side}, a bomb",
            make=lambda side=side: image(
                b"/Width %d /Height %d /Filter /FlateDecode " % (side, side) + gray, _zeros(side * side)
            ),
        )
    yield Sample(
        name="pdf, a picture of 65000 x 65000 of a bit",
        make=lambda: image(
            b"/Width 65000 /Height 65000 /ColorSpace /DeviceGray /BitsPerComponent 1 /Filter /FlateDecode",
            _zeros(65_000 * 8125),
        ),
    )
    yield Sample(
        name="pdf, a picture that claims 2**31 x 2**31",
        make=lambda: image(b"/Width 2147483647 /Height 2147483647 " + gray, bytes(99)),
    )
    yield Sample(
        name="pdf, a picture of 9000 x 9000 drawn 1000 times",
        make=lambda: image(
            b"/Width 9000 /Height 9000 /Filter /FlateDecode " + gray,
            _zeros(81_000_000),
            b"q 612 0 0 792 0 0 cm /I Do Q " * 1000,
        ),
    )
    yield Sample(name="pdf, a thousand pictures of 3000 x 3000", make=_many_images)
    yield Sample(
        name="pdf, a picture of 5000 x 5000 turned a little, 200 times",
        make=lambda: image(
            b"/Width 5000 /Height 5000 /Filter /FlateDecode " + gray,
            _zeros(25_000_000),
            b"q 600 30 -30 700 9 9 cm /I Do Q " * 200,
        ),
    )
    for name, data in (
        ("JPXDecode", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(range(256)) * 40),
        ("JPXDecode", _codestream(60_000, 60_000)),
        ("JPXDecode", _codestream(2**32 - 1, 2**32 - 1)),
        ("JBIG2Decode", bytes(range(256)) * 40),
        ("JBIG2Decode", _jbig2(65_535, 65_535)),
        ("JBIG2Decode", _jbig2(2**32 - 1, 2**32 - 1)),
        ("CCITTFaxDecode", bytes(range(256)) * 400),
        ("DCTDecode", b"\xff\xd8\xff\xe0" + bytes(range(256)) * 40),
        ("RunLengthDecode", b"\x81a" * 900_000),
        ("LZWDecode", bytes(range(256)) * 900),
    ):  # fmt: skip
        yield Sample(
            name=f"pdf, {name} of garbage, {zlib.crc32(data):08x}",
            make=lambda name=name, data=data: image(
                b"/Width 9000 /Height 9000 /Filter /%s " % name.encode() + gray, data
            ),
        )
    for side in (8192, 30_720):
        yield Sample(name=f"pdf, JPEG 2000 of {side} x {side}, all of it", make=partial(_white_jpx, side))
    yield Sample(
        name="pdf, JPEG 2000 of 65000 x 65000 with the tiles of a small one",
        make=lambda: pdf_pictures.filled((65_000, 65_000), b"/Filter /JPXDecode", _claiming_jpx(65_000)),
    )
    yield Sample(
        name="pdf, JPEG 2000 of 64 x 64 that the page says is 65000 x 65000",
        make=lambda: pdf_pictures.filled((65_000, 65_000), b"/Filter /JPXDecode", _claiming_jpx(64)),
    )
    for side in (30_000, 65_000, 2**32 - 1):
        yield Sample(name=f"pdf, JBIG2 of {side} x {side} of white", make=partial(_white_jbig2, side, 1))
    yield Sample(name="pdf, JBIG2 of 10000 x 10000, drawn over 300 times", make=partial(_white_jbig2, 10_000, 300))
    yield Sample(
        name="pdf, DCTDecode that claims 65500 x 65500",
        make=lambda: image(b"/Width 65500 /Height 65500 /Filter /DCTDecode " + gray, _claiming_jpeg()),
    )
    yield Sample(
        name="pdf, fax rows without end",
        make=lambda: image(
            b"/Width 60000 /Height 60000 /ColorSpace /DeviceGray /BitsPerComponent 1 /Filter /CCITTFaxDecode /DecodeParms << /K -1 /Columns 60000 /Rows 60000 >>",
            b"\xff" * 500_000,
        ),
    )
    yield Sample(
        name="pdf, a mask that is its own mask",
        make=lambda: image(b"/Width 60 /Height 60 /SMask 10 0 R " + gray, bytes(3600)),
    )
    yield Sample(
        name="pdf, a colour space that is its own base",
        make=lambda: one_page(
            b"612 0 0 792 0 0 cm /I Do",
            resources=b"/XObject << /I 10 0 R >>",
            objects={
                10: stream(
                    bytes(3600),
                    b"/Type /XObject /Subtype /Image /Width 60 /Height 60 /BitsPerComponent 8 /ColorSpace 11 0 R",
                ),
                11: b"[/Indexed 11 0 R 255 (abc)]",
            },
        ),
    )
    yield Sample(
        name="pdf, a colour space of 10000 colorants",
        make=lambda: one_page(
            b"612 0 0 792 0 0 cm /I Do",
            resources=b"/XObject << /I 10 0 R >>",
            objects={
                10: stream(
                    bytes(3600),
                    b"/Type /XObject /Subtype /Image /Width 60 /Height 60 /BitsPerComponent 8 /ColorSpace [/DeviceN ["
                    + b"/A " * 10_000
                    + b"] /DeviceGray 12 0 R]",
                ),
                12: b"<< /FunctionType 2 /Domain [0 1] /N 1 >>",
            },
        ),
    )
    yield Sample(
        name="pdf, an inline picture without end",
        make=lambda: one_page(b"BI /W 60000 /H 60000 /BPC 8 /CS /G ID " + bytes(90_000)),
    )
    yield Sample(
        name="pdf, 20000 inline pictures",
        make=lambda: one_page(
            b"q 600 0 0 700 0 0 cm BI /W 9 /H 9 /BPC 8 /CS /G ID "
            + bytes(81)
            + b" EI Q "
            + b"q 600 0 0 700 0 0 cm BI /W 9 /H 9 /BPC 8 /CS /G ID aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa EI Q "
            * 20_000
        ),
    )


def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    block = b"\xff" * _MEGABYTE
    whole, rest = divmod(count, _MEGABYTE)
    return b"".join(packer.compress(block) for _ in range(whole)) + packer.compress(block[:rest]) + packer.flush()


def _many_images() -> bytes:
    objects = {
        10 + n: stream(
            _zeros_cached(9_000_000),
            b"/Type /XObject /Subtype /Image /Width 3000 /Height 3000 /ColorSpace /DeviceGray /BitsPerComponent 8 /Filter /FlateDecode",
        )
        for n in range(200)
    }
    names = b" ".join(b"/I%d %d 0 R" % (n, n) for n in objects)
    content = b" ".join(b"q 612 0 0 792 0 0 cm /I%d Do Q" % n for n in objects)
    return one_page(content, resources=b"/XObject << %s >>" % names, objects=objects)


_CACHE: dict[int, bytes] = {}


def _zeros_cached(count: int) -> bytes:
    if count not in _CACHE:
        _CACHE[count] = _zeros(count)
    return _CACHE[count]


def _codestream(width: int, height: int) -> bytes:
    """The main header of a JPEG 2000 picture and nothing of it."""
    size = struct.pack(">HIIIIIIIIHBBB", 0, width, height, 0, 0, width, height, 0, 0, 1, 7, 1, 1)
    return (
        b"\xff\x4f\xff\x51"
        + struct.pack(">H", len(size) + 2)
        + size
        + b"\xff\x52\x00\x0c\0\0\0\x01\0\x05\x04\x04\0\0"
        + b"\xff\x90\x00\x0a\0\0\0\0\0\0\0\1\xff\x93"
        + bytes(99)
        + b"\xff\xd9"
    )


def _jbig2(width: int, height: int) -> bytes:
    """A page of that size, and a region of it that is drawn from nothing."""
    page = struct.pack(">IBBBI", 0, 48, 0, 1, 19) + struct.pack(">IIIIBH", width, height, 0, 0, 0, 0)
    region = struct.pack(">IIIIB", width, height, 0, 0, 0) + b"\x00\x03\xff\xfd\xff\x02\xfe\xfe\xfe"
    return page + struct.pack(">IBBBI", 1, 38, 0, 1, len(region) + 200) + region + bytes(200)


def _white_jpx(side: int) -> bytes:
    """Every tile of it is there, and says nothing: a few bytes for each million pixels."""
    white = Image.new("L", (_TILE, _TILE), 255)
    tile = pages.encoded(white, "JPEG2000", no_jp2=True, tile_size=white.size)
    start, end = tile.index(b"\xff\x90"), len(tile) - 2
    parts = [
        tile[start : start + 4] + struct.pack(">H", number) + tile[start + 6 : end]
        for number in range((side // _TILE) ** 2)
    ]
    header = bytearray(tile[:start])
    struct.pack_into(">II", header, header.index(b"\xff\x51") + 6, side, side)
    return pdf_pictures.filled((side, side), b"/Filter /JPXDecode", bytes(header) + b"".join(parts) + b"\xff\xd9")


def _claiming_jpx(side: int) -> bytes:
    """A codestream of 64 x 64 pixels that says it has more."""
    blob = bytearray(pages.encoded(Image.new("L", (64, 64), 200), "JPEG2000", no_jp2=True))
    at = blob.index(b"\xff\x51")
    struct.pack_into(">II", blob, at + 6, side, side)
    return bytes(blob)


def _white_jbig2(side: int, times: int) -> bytes:
    """A page without ink, drawn so many times: a bit of the file for each row."""
    white = b"\xff" * min(side // 8 + 1, _MEGABYTE)
    regions = b"".join(pdf_pictures.jbig2_region((side, side), white, number=1 + n) for n in range(times))
    data = pdf_pictures.jbig2_page((side, side), regions)
    entries = b"/ColorSpace /DeviceGray /BitsPerComponent 1 /Filter /JBIG2Decode"
    return pdf_pictures.filled((side, side), entries, data)


def _claiming_jpeg() -> bytes:
    blob = bytearray(pages.encoded(Image.new("L", (64, 64), 200), "JPEG"))
    at = blob.index(b"\xff\xc0")
    struct.pack_into(">HH", blob, at + 5, 65_500, 65_500)
    return bytes(blob)


# ---- drawing


def _drawing() -> Iterator[Sample]:
    yield Sample(name="pdf, 500000 graphics states, nested", make=lambda: one_page(b"q " * 500_000 + _TEXT))
    yield Sample(name="pdf, 500000 marked contents, nested", make=lambda: one_page(b"/A BMC " * 500_000 + _TEXT))
    yield Sample(name="pdf, arrays in a content, nested", make=lambda: one_page(b"[" * 500_000 + _TEXT))
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 612 792] "
    yield Sample(
        name="pdf, a form that draws itself",
        make=lambda: one_page(
            b"/F Do",
            resources=b"/XObject << /F 10 0 R >>",
            objects={10: stream(b"/F Do /F Do", form + b"/Resources << /XObject << /F 10 0 R >> >>")},
        ),
    )
    yield Sample(name="pdf, forms that draw each other twice, 30 deep", make=lambda: _doubling(form, 30))
    yield Sample(
        name="pdf, forms that draw each other twice, as groups, 24 deep",
        make=lambda: _doubling(form + b"/Group << /S /Transparency /I true /K true >> ", 24),
    )
    yield Sample(name="pdf, 2000 groups, nested", make=lambda: _nested_groups(form, 2000))
    yield Sample(name="pdf, 40 groups of a whole page, nested", make=lambda: _nested_groups(form, 40))
    yield Sample(
        name="pdf, a pattern that paints with itself",
        make=lambda: one_page(
            b"/Pattern cs /P scn 0 0 612 792 re f",
            resources=b"/Pattern << /P 10 0 R >>",
            objects={
                10: stream(
                    b"/Pattern cs /P scn 0 0 9 9 re f",
                    b"/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 9 9] /XStep 9 /YStep 9 /Resources << /Pattern << /P 10 0 R >> >>",
                )
            },
        ),
    )
    for step in (b"0.0001", b"0", b"-1e-30", b"1e30"):
        yield Sample(
            name=f"pdf, a pattern of steps of {step.decode()}",
            make=lambda step=step: one_page(
                b"/Pattern cs /P scn 0 0 612 792 re f",
                resources=b"/Pattern << /P 10 0 R >>",
                objects={
                    10: stream(
                        b"0 0 9 9 re f",
                        b"/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 9 9] /XStep %s /YStep %s /Resources << >>"
                        % (step, step),
                    )
                },
            ),
        )
    yield Sample(
        name="pdf, a pattern of a huge tile, many times",
        make=lambda: one_page(
            b"/Pattern cs /P scn " + b"0 0 612 792 re f " * 3000,
            resources=b"/Pattern << /P 10 0 R >>",
            objects={
                10: stream(
                    b"0 0 5000 5000 re f",
                    b"/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 5000 5000] /XStep 1 /YStep 1 /Resources << >>",
                )
            },
        ),
    )
    for kind in range(1, 8):
        yield Sample(name=f"pdf, a shading of kind {kind} that is garbage", make=partial(_shading, kind))
    yield Sample(
        name="pdf, a shading by a program without end",
        make=lambda: _function(b"/FunctionType 4 /Domain [0 1 0 1] /Range [0 1]", b"{ " + b"dup mul " * 90_000 + b"}"),
    )
    yield Sample(
        name="pdf, a program nested 50000 deep",
        make=lambda: _function(b"/FunctionType 4 /Domain [0 1 0 1] /Range [0 1]", b"{" * 50_000 + b"}" * 50_000),
    )
    yield Sample(
        name="pdf, a table of 2**31 samples",
        make=lambda: _function(
            b"/FunctionType 0 /Domain [0 1 0 1] /Range [0 1] /Size [65535 65535] /BitsPerSample 32", bytes(99)
        ),
    )
    yield Sample(
        name="pdf, a function stitched of itself",
        make=lambda: one_page(
            b"/S sh",
            resources=b"/Shading << /S << /ShadingType 2 /ColorSpace /DeviceGray /Coords [0 0 612 792] /Function 10 0 R >> >>",
            objects={
                10: b"<< /FunctionType 3 /Domain [0 1] /Functions [10 0 R 10 0 R] /Bounds [0.5] /Encode [0 1 0 1] >>"
            },
        ),
    )
    yield Sample(
        name="pdf, a letter that draws itself",
        make=lambda: one_page(
            b"BT /T 12 Tf 72 700 Td (aaaa) Tj ET",
            resources=b"/Font << /T 10 0 R >>".replace(b"/Font << ", b"/ProcSet [/PDF] /Font << "),
            objects={5: _type3(5), 10: _type3(10), 11: stream(b"500 0 d0 BT /T 1 Tf (aaaa) Tj ET")},
        ),
    )
    yield Sample(name="pdf, letters a mile high", make=lambda: one_page(b"BT /F1 1e9 Tf 72 700 Td (Every page) Tj ET"))
    yield Sample(
        name="pdf, letters squeezed to nothing",
        make=lambda: one_page(b"BT /F1 12 Tf 1e30 Tz 1e30 Tc 1e30 Tw 72 700 Td (Every page) Tj ET"),
    )
    yield Sample(
        name="pdf, a million letters",
        make=lambda: one_page(b"BT /F1 4 Tf 72 700 Td (" + b"Every page is counted once. " * 40_000 + b") Tj ET"),
    )
    yield Sample(
        name="pdf, 200000 lines of text",
        make=lambda: one_page(b"BT /F1 4 Tf 72 700 Td " + b"(Every page) Tj 0 -0.001 Td " * 200_000 + b"ET"),
    )
    yield Sample(
        name="pdf, a path of a million points", make=lambda: one_page(b"0 0 m " + b"600 700 l 9 9 l " * 200_000 + b"S")
    )
    yield Sample(
        name="pdf, a path of a million points, filled",
        make=lambda: one_page(
            b"0 0 m " + b"".join(b"%d %d l " % (n * 7919 % 612, n * 104_729 % 792) for n in range(150_000)) + b"f*"
        ),
    )
    yield Sample(
        name="pdf, dashes of nothing", make=lambda: one_page(b"[1e-9 1e-9] 0 d 0.01 w 0 0 m 612 792 l S " * 20)
    )
    yield Sample(
        name="pdf, a line a mile wide", make=lambda: one_page(b"1e30 w 0 0 m 612 792 l S -1e30 1e30 m 1e38 -1e38 l S")
    )
    yield Sample(
        name="pdf, 20000 clips",
        make=lambda: one_page(b"0 0 612 792 re W n " * 20_000 + b"0 0 m 600 0 300 700 9 9 c W n " * 20_000 + _TEXT),
    )
    yield Sample(
        name="pdf, a clip of a million letters",
        make=lambda: one_page(b"BT 7 Tr /F1 9 Tf 72 700 Td (" + b"Every page " * 9000 + b") Tj ET 0 0 612 792 re f"),
    )
    yield Sample(name="pdf, a font that is garbage", make=lambda: _font(bytes(range(256)) * 400))
    yield Sample(name="pdf, a font of tables that lie", make=lambda: _font(_lying_font()))
    yield Sample(
        name="pdf, a font that is a bomb",
        make=lambda: one_page(
            objects={
                5: b"<< /Type /Font /Subtype /TrueType /BaseFont /X /FontDescriptor 10 0 R >>",
                10: b"<< /Type /FontDescriptor /FontName /X /Flags 4 /FontFile2 11 0 R >>",
                11: stream(_bomb(900), b"/Filter /FlateDecode /Length1 900000000"),
            }
        ),
    )
    yield Sample(
        name="pdf, a character map that uses itself",
        make=lambda: one_page(
            objects={
                5: b"<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding 10 0 R /DescendantFonts [11 0 R] >>",
                10: stream(
                    b"1 begincodespacerange <00> <ffffffff> endcodespacerange 1 begincidrange <00> <ffffffff> 0 endcidrange",
                    b"/Type /CMap /CMapName /X /UseCMap 10 0 R",
                ),
                11: b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /X /W [0 2147483647 500] >>",
            }
        ),
    )
    yield Sample(
        name="pdf, a font that descends from itself",
        make=lambda: one_page(
            objects={
                5: b"<< /Type /Font /Subtype /Type0 /BaseFont /X /Encoding /Identity-H /DescendantFonts [5 0 R] >>"
            }
        ),
    )
    yield Sample(
        name="pdf, layers that hide each other",
        make=lambda: one_page(
            b"/OC /L BDC " + _TEXT + b" EMC",
            resources=b"/Properties << /L 10 0 R >>",
            objects={10: b"<< /Type /OCMD /OCGs [10 0 R] /VE [/Not [/And 10 0 R]] >>"},
        ),
    )


def _doubling(form: bytes, depth: int) -> bytes:
    objects = {
        n: stream(b"/F Do 1 0 0 1 1 1 cm /F Do", form + b"/Resources << /XObject << /F %d 0 R >> >>" % (n + 1))
        for n in range(10, 10 + depth)
    }
    objects[10 + depth] = stream(b"0 0 99 99 re f", form)
    return one_page(b"/F Do", resources=b"/XObject << /F 10 0 R >>", objects=objects)


def _nested_groups(form: bytes, depth: int) -> bytes:
    state = b"/ExtGState << /G << /ca 0.5 /BM /Luminosity >> >>"
    group = form + b"/Group << /S /Transparency /I true /K true /CS /DeviceRGB >> "
    objects = {
        n: stream(
            b"/G gs /F Do 0 0 99 99 re f", group + b"/Resources << %s /XObject << /F %d 0 R >> >>" % (state, n + 1)
        )
        for n in range(10, 10 + depth)
    }
    objects[10 + depth] = stream(b"0 0 99 99 re f", form)
    return one_page(b"/F Do", resources=b"/XObject << /F 10 0 R >>", objects=objects)


def _shading(kind: int) -> bytes:
    common = b"/ShadingType %d /ColorSpace /DeviceRGB " % kind
    function = b"/Function << /FunctionType 2 /Domain [0 1] /N 1e-30 /C0 [0 0 0] /C1 [1 1 1] >> "
    if kind < 4:
        body = b"<< %s %s /Coords [0 0 1e-30 612 792 1e30] /Extend [true true] >>" % (common, function)
    else:
        body = stream(
            bytes(range(256)) * 4000,
            common
            + b"/BitsPerCoordinate 32 /BitsPerComponent 16 /BitsPerFlag 8 /VerticesPerRow 2 /Decode [-1e9 1e9 -1e9 1e9 0 1 0 1 0 1]",
        )
    return one_page(b"/S sh " * 20, resources=b"/Shading << /S 10 0 R >>", objects={10: body})


def _function(entries: bytes, data: bytes) -> bytes:
    return one_page(
        b"/S sh",
        resources=b"/Shading << /S << /ShadingType 1 /ColorSpace /DeviceGray /Domain [0 1 0 1] /Matrix [612 0 0 792 0 0] /Function 10 0 R >> >>",
        objects={10: stream(data, entries)},
    )


def _type3(number: int) -> bytes:
    return (
        b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 1000 1000] /FontMatrix [0.001 0 0 0.001 0 0] /FirstChar 97 /LastChar 97 /Widths [500] /Encoding << /Differences [97 /a] >> /CharProcs << /a 11 0 R >> /Resources << /Font << /T %d 0 R >> >> >>"
        % number
    )


def _font(data: bytes) -> bytes:
    return one_page(
        objects={
            5: b"<< /Type /Font /Subtype /TrueType /BaseFont /X /FontDescriptor 10 0 R /FirstChar 0 /LastChar 2147483647 /Widths [500] >>",
            10: b"<< /Type /FontDescriptor /FontName /X /Flags 4 /FontFile2 11 0 R >>",
            11: stream(data),
        }
    )


def _lying_font() -> bytes:
    tables = b"".join(
        struct.pack(">4sIII", name, 0, 0xFFFFFF00, 0xFFFFFFFF)
        for name in (b"cmap", b"glyf", b"head", b"hhea", b"hmtx", b"loca", b"maxp")
    )
    return struct.pack(">IHHHH", 0x00010000, 7, 16, 2, 0) + tables + bytes(9999)


def _annotations() -> Iterator[Sample]:
    note = b"<< /Type /Annot /Subtype /Square /Rect [9 9 99 99] /AP << /N 10 0 R >> >>"
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 99 99] "
    yield Sample(
        name="pdf, 30000 notes",
        make=lambda: one_page(
            page=b"/Annots [" + b"11 0 R " * 30_000 + b"]", objects={10: stream(b"0 0 9 9 re f", form), 11: note}
        ),
    )
    yield Sample(
        name="pdf, a note that draws itself",
        make=lambda: one_page(
            page=b"/Annots [11 0 R]",
            objects={10: stream(b"/F Do", form + b"/Resources << /XObject << /F 10 0 R >> >>"), 11: note},
        ),
    )
    yield Sample(name="pdf, a note that is the page", make=lambda: one_page(page=b"/Annots [3 0 R 3 0 R]"))
    yield Sample(
        name="pdf, fields that are their own children",
        make=lambda: one_page(
            catalog=b"/AcroForm << /Fields [10 0 R] /NeedAppearances true >>",
            page=b"/Annots [10 0 R]",
            objects={
                10: b"<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /V (b) /DA (/F1 12 Tf) /Rect [9 9 99 99] /Kids [10 0 R 10 0 R] /Parent 10 0 R >>"
            },
        ),
    )
    yield Sample(
        name="pdf, 50000 fields",
        make=lambda: one_page(
            catalog=b"/AcroForm << /Fields [" + b"10 0 R " * 50_000 + b"] /NeedAppearances true >>",
            objects={10: b"<< /FT /Tx /T (a) /V (b) /DA (/F1 12 Tf) /Rect [9 9 99 99] >>"},
        ),
    )
    yield Sample(
        name="pdf, scripts and actions",
        make=lambda: one_page(
            catalog=b"/OpenAction << /S /JavaScript /JS (while(1);) >> /AA << /WC << /S /Launch /F (x) >> >>",
            page=b"/AA << /O << /S /JavaScript /JS (while(1);) >> >>",
        ),
    )
    yield Sample(
        name="pdf, a form of XFA that is a bomb",
        make=lambda: one_page(
            catalog=b"/AcroForm << /Fields [] /XFA 10 0 R >>", objects={10: stream(_bomb(500), b"/Filter /FlateDecode")}
        ),
    )


def _encryption() -> Iterator[Sample]:
    for entries in (
        b"/Filter /Standard /V 5 /R 6 /Length 256 /P -4 /O (a) /U (b) /OE (c) /UE (d) /Perms (e)",
        b"/Filter /Standard /V 1 /R 2 /Length 2147483647 /P -4 /O (a) /U (b)",
        b"/Filter /Standard /V 4 /R 4 /CF << /StdCF << /CFM /AESV2 /Length 2147483647 >> >> /StmF /StdCF /P -4 /O (a) /U (b)",
        b"/Filter /Nobody /V 99",
    ):
        yield Sample(
            name=f"pdf, encrypted by {zlib.crc32(entries):08x}",
            make=lambda entries=entries: one_page(
                objects={10: b"<< " + entries + b" >>"}, trailer=b"/Encrypt 10 0 R /ID [<00> <00>]"
            ),
            ends=refused("InvalidImage"),
        )
    yield Sample(name="pdf, encrypted by itself", make=lambda: one_page(trailer=b"/Encrypt 4 0 R /ID [<00> <00>]"))
