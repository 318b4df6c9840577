"""Nothing of a document, of its name or of its sender is kept: words that are nowhere else are looked for everywhere.

Each word enters by one door (drawn on a page, a PDF's title, a header, a query, an address …), so a word that is found
tells its door. The search knows a word in any letter case, as UTF-16, as base64 and as hexadecimal digits, within
SQLite's files, within gzip and within tar; it is tried on all of these first, and on the one place where the words of
a document may lie: the result in the spool, which its sender fetches.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import re
import socket
import sqlite3
import tarfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil
import pytest
import requests
from PIL import Image, PngImagePlugin
from requests.adapters import HTTPAdapter

from tests.e2e.site import Site, command, text_of, wait_until
from tests.fakes.fluentd import FakeFluentd
from tests.pages import LINES, bad_files, digital_pdf, encoded, printed_page

CLIENT = "127.0.0.77"
WORDS = {
    # drawn on pages
    "text of an image": "Kingfisher",
    "text of a PDF": "Woodpecker",
    "text of a page that was being read when the core died": "Nuthatch",
    # within files, not drawn
    "title of a PDF": "Nightingale",
    "author of a PDF, as UTF-16": "Yellowhammer",
    "text chunk of a PNG": "Flycatcher",
    "comment of a JPEG": "Cockatiel",
    "description of a TIFF": "Oystercatcher",
    "text of a file that is broken": "Guillemot",
    "bytes that are no document": "Capercaillie",
    # beside the file
    "file name": "Sandpiper",
    "name of the multipart field": "Turnstone",
    "address in a JSON body": "Ptarmigan",
    # headers
    "User-Agent": "Goldfinch",
    "Ocp-Apim-Subscription-Key": "Partridge",
    "Authorization": "Bullfinch",
    "Cookie": "Lapwings",
    "Referer": "Redshank",
    "X-Forwarded-For": "198.51.100.23",
    "Forwarded": "203.0.113.99",
    "X-Request-Id": "Razorbill",
    "any header": "Chaffinch",
    "name of a header": "Whitethroat",
    "Host": "Sparrowhawk",
    "Content-Type": "Shearwater",
    "Accept-Language": "Fieldfare",
    # the address
    "query, name": "Greenfinch",
    "query, value": "Brambling",
    "query, pages": "Wheatear",
    "query, language": "Dunnock",
    "query, a language that is none": "Stonechat",
    "query, model version": "Pipistrelle",
    "query, reading order": "Hawfinch",
    "path": "Treecreeper",
    "operation id": "Kittiwake",
    "month": "Avocets",
    "method": "GREYLAG",
    "request line that is none": "Bitterns",
    "chunk size that is none": "Gannets",
    # the sender
    "client address": CLIENT,
    "client address, as a number": str(int.from_bytes(socket.inet_aton(CLIENT), "big")),
}
DRAWN = ("text of an image", "text of a PDF", "text of a page that was being read when the core died")


# ---- the search -----------------------------------------------------------------------------------------------------


class Search:
    """Looks for words, and for the digests of documents, in bytes.

    Args:
        words: Words by what they are of.
        documents: Documents, whose SHA-256 and MD5 are looked for too.
    """

    def __init__(self, words: Mapping[str, str], documents: Mapping[str, bytes] = {}) -> None:
        self._folded: list[tuple[str, bytes]] = []
        self._exact: list[tuple[str, bytes]] = []
        for name, word in words.items():
            low = word.lower()
            self._folded += [(name, low.encode(code)) for code in ("utf-8", "utf-16-le", "utf-16-be")]
            self._folded += [(name, spelled.encode().hex().encode()) for spelled in {word, low, word.upper()}]
            self._exact += [(name, inside) for spelled in (word, low) for inside in _within_base64(spelled.encode())]
        for name, blob in documents.items():
            for digest in (hashlib.sha256(blob).digest(), hashlib.md5(blob).digest()):
                what = f"digest of {name}"
                self._folded.append((what, digest.hex().encode()))
                self._exact += [(what, digest), (what, base64.b64encode(digest)[:-2])]

    def found_in(self, data: bytes) -> set[str]:
        """What of it is in there; archives are looked into."""
        data = re.sub(rb"\0{64,}", bytes(64), data)  # megabytes of nothing: the ledger's reserve
        folded = data.lower()
        found = {name for name, form in self._folded if form in folded}
        found |= {name for name, form in self._exact if form in data}
        if data[:2] == b"\x1f\x8b":
            found |= self.found_in(gzip.decompress(data))
        elif data[257:262] == b"ustar":
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    found |= self.found_in(member.name.encode() + b"\0" + (content.read() if content else b""))
        return found

    def found_below(self, folder: Path, *, but: str = "") -> dict[str, set[str]]:
        """The same for all files below a folder, whose names count too; path → what was found."""
        found = {}
        for path in sorted(folder.rglob("*")):
            here = self.found_in(str(path.relative_to(folder)).encode())
            if path.is_file() and path.name != but:
                with contextlib.suppress(FileNotFoundError):  # the service goes on while we look
                    here |= self.found_in(path.read_bytes())
            if here:
                found[str(path.relative_to(folder))] = here
        return found


def _within_base64(blob: bytes) -> Iterator[bytes]:
    """What base64 makes of a text that stands inside a longer one, at each of the three offsets."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + blob)
        first = -(-before * 8 // 6)
        yield whole[first : (before + len(blob)) * 8 // 6]


SEARCH = Search(WORDS)


@pytest.mark.parametrize("form", ["plain", "lower", "UTF-16", "base64", "hex", "gzip", "tar", "file name"])
def test_search_finds_every_word_in_every_form(form: str, tmp_path: Path) -> None:
    for name, word in WORDS.items():
        text = f"something {word} else"
        data = {
            "plain": text.encode(),
            "lower": text.lower().encode(),
            "UTF-16": text.encode("utf-16"),
            "base64": base64.b64encode(text.encode()),
            "hex": text.encode().hex().encode(),
            "gzip": gzip.compress(text.encode()),
        }.get(form)
        if form == "file name":
            (tmp_path / f"{word}.txt").touch()
            assert set().union(*SEARCH.found_below(tmp_path).values()) == {name}
            (tmp_path / f"{word}.txt").unlink()
            continue
        if form == "tar":
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
                member = tarfile.TarInfo("x")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
            data = buffer.getvalue()
        assert data is not None
        assert SEARCH.found_in(data) == {name}


def test_search_finds_words_in_all_three_files_of_a_database(tmp_path: Path) -> None:
    for encoding in ("UTF-8", "UTF-16le"):
        path = tmp_path / f"{encoding}.db"
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"PRAGMA encoding='{encoding}'")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE kept(word)")
        connection.executemany("INSERT INTO kept VALUES (?)", [(word,) for word in WORDS.values()])
        assert set(SEARCH.found_below(tmp_path)) == {f"{encoding}.db-wal"}
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert SEARCH.found_below(tmp_path) == {f"{encoding}.db": set(WORDS)}
        connection.close()
        path.unlink()


def test_search_finds_digests_of_documents() -> None:
    search = Search({}, {"a page": b"page"})
    digest = hashlib.sha256(b"page")
    for data in (digest.digest(), digest.hexdigest().upper().encode(), base64.b64encode(digest.digest())):
        assert search.found_in(b"x" + data) == {"digest of a page"}


# ---- documents and senders ------------------------------------------------------------------------------------------


def drawn(word: str) -> Image.Image:
    return printed_page([f"{word} {word}", word], size=(900, 300)).image


def png_with_text_chunk() -> bytes:
    chunk = PngImagePlugin.PngInfo()
    chunk.add_text("Title", WORDS["text chunk of a PNG"])
    return encoded(drawn(WORDS["text of an image"]), "PNG", pnginfo=chunk, dpi=(150, 150))


def pdf_with_metadata() -> bytes:
    """A PDF whose text is drawn, with a title in ASCII and an author in UTF-16."""
    plain = digital_pdf([[f"{WORDS['text of a PDF']} on a page"] * 3])
    author = ("\ufeff" + WORDS["author of a PDF, as UTF-16"]).encode("utf-16-be").hex()
    start = len(plain)
    # An incremental update, as editors append it.
    table = int(re.findall(rb"startxref\n(\d+)", plain)[-1])
    plain += f"90 0 obj\n<< /Title ({WORDS['title of a PDF']}) /Author <{author}> >>\nendobj\n".encode()
    xref = len(plain)
    plain += (
        f"xref\n90 1\n{start:010d} 00000 n \ntrailer\n<< /Size 91 /Root 1 0 R /Info 90 0 R /Prev {table} >>\n".encode()
    )
    return plain + f"startxref\n{xref}\n%%EOF\n".encode()


@cache
def good_documents() -> dict[str, bytes]:
    picture = drawn(WORDS["text of an image"])
    return {
        "PNG": png_with_text_chunk(),
        "JPEG": encoded(picture.convert("RGB"), "JPEG", comment=WORDS["comment of a JPEG"].encode()),
        "TIFF": encoded(picture, "TIFF", tiffinfo={270: WORDS["description of a TIFF"]}),
        "PDF": pdf_with_metadata(),
    }


@cache
def refused_documents() -> dict[str, bytes]:
    broken = digital_pdf([[WORDS["text of a file that is broken"]] * 40])
    tiff = good_documents()["TIFF"]
    return {
        "PDF cut off": broken[: len(broken) // 4],
        "PDF without pages": broken.replace(b"/Kids", b"/Kidz").replace(b"/Type /Page ", b"/Type /Rage "),
        "PDF encrypted": digital_pdf([[WORDS["text of a file that is broken"]]], password="secret"),
        "PNG cut off": good_documents()["PNG"][:-500],
        "JPEG cut off": good_documents()["JPEG"][:-2000],
        "TIFF cut off": tiff[: len(tiff) // 2],
        "TIFF with tags that are none": tiff.replace(WORDS["description of a TIFF"].encode()[:4], b"\xff\xff\xff\xff"),
        "no document": WORDS["bytes that are no document"].encode() * 100,
        **{name: blob for name, (blob, _) in bad_files().items()},
    }


class FromClient(HTTPAdapter):
    """Connects from an address of its own."""

    def init_poolmanager(self, *arguments: object, **options: object) -> None:
        super().init_poolmanager(*arguments, source_address=(CLIENT, 0), **options)  # type: ignore[arg-type]


def a_client() -> requests.Session:
    session = requests.Session()
    session.mount("http://", FromClient())
    session.headers.update(
        {
            "User-Agent": f"{WORDS['User-Agent']}/1.0",
            "Ocp-Apim-Subscription-Key": WORDS["Ocp-Apim-Subscription-Key"],
            "Authorization": f"Bearer {WORDS['Authorization']}",
            "Cookie": f"session={WORDS['Cookie']}",
            "Referer": f"http://intranet.example/{WORDS['Referer']}",
            "X-Forwarded-For": WORDS["X-Forwarded-For"],
            "Forwarded": f"for={WORDS['Forwarded']}",
            "X-Real-IP": WORDS["X-Forwarded-For"],
            "X-Request-Id": WORDS["X-Request-Id"],
            "x-ms-client-request-id": WORDS["X-Request-Id"],
            "traceparent": WORDS["X-Request-Id"],
            "X-Anything": WORDS["any header"],
            f"X-{WORDS['name of a header']}": "1",
            "Accept-Language": WORDS["Accept-Language"],
            "Connection": "close",
        }
    )
    return session


def raw(site: Site, *pieces: bytes) -> bytes:
    """Send bytes as they are, from the client's address; what came back, if anything did."""
    sender = socket.create_connection(("127.0.0.1", site.port), timeout=5, source_address=(CLIENT, 0))
    with sender, contextlib.suppress(OSError):
        for piece in pieces:
            sender.sendall(piece)
        return sender.recv(65536)
    return b""


# ---- the day of a service -------------------------------------------------------------------------------------------


@dataclass
class Day:
    """What was done, and what was seen meanwhile.

    Attributes:
        site: The service, stopped.
        search: For all words and for the digests of all documents.
        texts: Text of each result, as its sender got it.
        answers: HTTP status by request.
        meanwhile: What was found in state and output while documents were in the house.
        pages: The service's own pages, by address.
        results: What was found in the results in the spool.
        seen: The client's address as the kernel told it of a connection to the service.
        commands: What commands printed, by command.
        fluentd: Where the log was sent to.
    """

    site: Site
    search: Search
    texts: dict[str, str] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    meanwhile: list[dict[str, set[str]]] = field(default_factory=list)
    pages: dict[str, bytes] = field(default_factory=dict)
    results: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    commands: dict[str, bytes] = field(default_factory=dict)
    fluentd: FakeFluentd | None = None

    def look(self) -> None:
        """Look into state, output and temporary files as they are now."""
        for name in ("state", "output", "tmp", "license"):
            found = self.search.found_below(self.site.folder / name)
            if found:
                self.meanwhile.append(found)


@pytest.fixture(scope="module")
def day() -> Iterator[Day]:
    fluentd = FakeFluentd()
    site = Site(
        "Logging:Disk:Format=json",
        "Logging:Disk:LogLevel=Trace",
        "Logging:Fluentd:LogLevel:Default=Trace",
        "Fluentd:Host=127.0.0.1",
        f"Fluentd:Port={fluentd.port}",
        "Metering:MinIntervalSeconds=1",
        "Metering:MaxIntervalSeconds=1",
        "Logging:Console:LogLevel:Default=Debug",
        "Sidecar:MaxDocumentBytes=2000000",
        "Core:PageTimeoutSeconds=20",
    )
    (site.folder / "tmp").mkdir()
    site.environment["TMPDIR"] = str(site.folder / "tmp")
    try:
        site.start()
        kept = Day(site, Search(WORDS, {**good_documents(), "no document": refused_documents()["no document"]}))
        kept.fluentd = fluentd
        client = a_client()
        send_what_is_read(kept, client)
        send_what_is_refused(kept, client)
        send_what_is_no_request(kept)
        kill_the_core_in_the_middle(kept, client)
        wait_until(lambda: len(site.recorded_uses()) == site.pages(), 20, "not all records were written")
        kept.look()
        for path in ("/", "/ready", "/status", "/metrics", "/records/usage-logs/", "/swagger", "/ContainerLiveness"):
            kept.pages[path] = requests.get(site.url + path, timeout=10).content
        kept.results = set().union(*kept.search.found_below(site.folder / "share").values())
        run_commands(kept)
        assert site.stop() == 0
        kept.look()
        yield kept
    finally:
        site.remove()
        fluentd.close()


def send_what_is_read(day: Day, client: requests.Session) -> None:
    """Good documents by every door: raw, multipart, sync, async; with questions that nobody asked."""
    site, base = day.site, f"{day.site.url}/vision/v3.2/read"
    question = {WORDS["query, name"]: "1", "x": WORDS["query, value"], "language": "en"}
    for name, document in good_documents().items():
        form = {WORDS["name of the multipart field"]: (f"{WORDS['file name']}.{name.lower()}", document)}
        answer = client.post(f"{base}/syncAnalyze", params=question, files=form, timeout=60)
        assert answer.status_code == 200, answer.text
        day.texts[f"sync {name}"] = text_of(answer.json())
        started = client.post(
            f"{base}/analyze",
            params=question,
            data=document,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Disposition": f'attachment; filename="{WORDS["file name"]}.png"',
            },
            timeout=60,
        )
        assert started.status_code == 202, started.text
        location = started.headers["Operation-Location"]
        last: dict[str, object] = {}

        day.look()

        def over(location: str = location, last: dict[str, object] = last) -> bool:
            last.update(client.get(location, timeout=10).json())
            return last["status"] in {"succeeded", "failed"}

        wait_until(over, 30, "the operation is not over")
        day.texts[f"async {name}"] = text_of(last)
    named = client.post(
        f"{base}/analyze",
        data=good_documents()["PNG"],
        headers={"Host": f"{WORDS['Host']}.example", "Content-Type": "application/octet-stream"},
        timeout=60,
    )
    day.answers["Host"] = named.status_code
    assert WORDS["Host"] in named.headers["Operation-Location"]
    site.settled_pages()


def send_what_is_refused(day: Day, client: requests.Session) -> None:
    """What clients do wrong, all of it with a word in it."""
    base = f"{day.site.url}/vision/v3.2/read"
    octets = {"Content-Type": "application/octet-stream"}
    good = good_documents()["PNG"]
    for route in ("analyze", "syncAnalyze"):
        for name, document in refused_documents().items():
            answer = client.post(f"{base}/{route}", data=document, headers=octets, timeout=60)
            if answer.status_code == 202:
                day.site.result(answer.headers["Operation-Location"])
            day.answers[f"{route} {name}"] = answer.status_code
        for name, value in (
            ("pages", WORDS["query, pages"]),
            ("language", WORDS["query, language"]),
            ("language", WORDS["query, a language that is none"] * 3),
            ("model-version", WORDS["query, model version"]),
            ("readingOrder", WORDS["query, reading order"]),
        ):
            answer = client.post(f"{base}/{route}", params={name: value}, data=good, headers=octets, timeout=60)
            day.answers[f"{route} {name}={value}"] = answer.status_code
        for kind in (f"text/{WORDS['Content-Type']}", f"image/{WORDS['Content-Type']}", WORDS["Content-Type"]):
            answer = client.post(f"{base}/{route}", data=good, headers={"Content-Type": kind}, timeout=60)
            day.answers[f"{route} {kind}"] = answer.status_code
        url = f"http://{WORDS['address in a JSON body']}.example/x.png"
        day.answers[f"{route} url"] = client.post(f"{base}/{route}", json={"url": url}, timeout=10).status_code
        day.answers[f"{route} JSON"] = client.post(f"{base}/{route}", json=[url], timeout=10).status_code
        form = {WORDS["name of the multipart field"]: (f"{WORDS['file name']}.pdf", refused_documents()["no document"])}
        day.answers[f"{route} form"] = client.post(f"{base}/{route}", files=form, timeout=10).status_code
        long = WORDS["bytes that are no document"].encode() * 200_000
        day.answers[f"{route} too long"] = client.post(f"{base}/{route}", data=long, headers=octets).status_code
        form = {WORDS["name of the multipart field"]: (f"{WORDS['file name']}.pdf", long)}
        day.answers[f"{route} form too long"] = client.post(f"{base}/{route}", files=form, timeout=30).status_code
    for path in (
        f"/{WORDS['path']}",
        f"/{WORDS['path']}?{WORDS['query, name']}={WORDS['query, value']}",
        f"/vision/v3.2/read/analyzeResults/{WORDS['operation id']}",
        f"/vision/v3.2/read/operations/{WORDS['operation id']}",
        f"/records/usage-logs/{WORDS['month']}/2026",
        f"/records/usage-logs/03/{WORDS['month']}",
        f"/swagger/{WORDS['path']}/swagger.json",
        f"/static/{WORDS['path']}",
        f"/{urllib.parse.quote(WORDS['path'].encode() + bytes([0xFF, 0]))}",
    ):
        day.answers[path] = client.get(day.site.url + path, timeout=10).status_code
        day.answers[f"PUT {path}"] = client.put(day.site.url + path, data=WORDS["query, value"], timeout=10).status_code
    day.look()


def send_what_is_no_request(day: Day) -> None:
    """Bytes that no HTTP library sends, and callers who hang up."""
    site = day.site
    head = b"POST /vision/v3.2/read/syncAnalyze HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    for pieces in (
        (WORDS["request line that is none"].encode() + b"\r\n\r\n",),
        (b"GET /" + WORDS["request line that is none"].encode() + b" HTTP/9.9\r\n\r\n",),
        (WORDS["method"].encode() + b" /ready HTTP/1.1\r\nHost: x\r\n\r\n",),
        (b"GET /" + WORDS["path"].encode() * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",),
        (b"GET /ready HTTP/1.1\r\nHost: x\r\nX-Long: " + WORDS["any header"].encode() * 2000 + b"\r\n\r\n",),
        (b"GET /ready HTTP/1.1\r\nHost: x\r\n" + WORDS["name of a header"].encode() + b" broken\r\n\r\n",),
        (b"GET /ready HTTP/1.1\r\nHost: " + WORDS["Host"].encode() + b" / broken\r\n\r\n",),
        (head + b"Transfer-Encoding: chunked\r\n\r\n", WORDS["chunk size that is none"].encode() + b"\r\nxx\r\n"),
        (head + b"Transfer-Encoding: " + WORDS["any header"].encode() + b"\r\n\r\nxx",),
        (head + b"Content-Length: " + WORDS["any header"].encode() + b"\r\n\r\nxx",),
        (head + b"Expect: " + WORDS["any header"].encode() + b"\r\nContent-Length: 2\r\n\r\nxx",),
        (b"\x16\x03\x01\x02\x00\x01\x00" + WORDS["bytes that are no document"].encode(),),
        (b"PROXY TCP4 198.51.100.23 203.0.113.99 1 2\r\nGET /ready HTTP/1.1\r\nHost: x\r\n\r\n",),
    ):
        raw(site, *pieces)
    document = good_documents()["PNG"]
    with socket.create_connection(("127.0.0.1", site.port), timeout=5, source_address=(CLIENT, 0)) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % (len(document) + 10) + document)
        time.sleep(0.3)
        day.seen |= {one.raddr.ip for one in psutil.net_connections("tcp") if one.laddr.port == site.port and one.raddr}
        day.look()
    assert site.ready() == 200


def kill_the_core_in_the_middle(day: Day, client: requests.Session) -> None:
    """Once a worker, once the whole core, while a page full of words is read."""
    site = day.site
    word = WORDS["text of a page that was being read when the core died"]
    dense = printed_page([f"{word} {line[:40]}" for line in LINES * 5], size=(1654, 2339), dpi=200, points=9)
    for parts in (site.core_workers, lambda: site.processes("core")):
        started = client.post(
            f"{site.url}/vision/v3.2/read/analyze",
            data=encoded(dense.image, "PNG", dpi=(200, 200)),
            headers={"Content-Type": "application/octet-stream"},
            timeout=30,
        )
        assert started.status_code == 202
        time.sleep(0.2)
        for process in parts():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        day.look()
        site.result(started.headers["Operation-Location"], 60)
        site.wait_ready()


def run_commands(day: Day) -> None:
    """What operators, vendor and auditors run, and the files that it leaves."""
    site, out = day.site, day.site.folder / "carried"
    vendor, key = site.folder / "vendor", site.folder / "state" / "device.pub"
    out.mkdir()

    def run(*words: str | Path, code: int = 0) -> None:
        done = command(*words)
        assert done.returncode == code, done.stdout + done.stderr
        day.commands[" ".join(map(str, words[:3]))] = (done.stdout + done.stderr).encode()

    for name in ("status", "diagnose"):
        run("sidecar", name, *site.words)
    for name in ("status", "check"):
        run("sidecar", "ledger", name, *site.words)
    run("sidecar", "usage", "export", "--out", out, *site.words)
    run("sidecar", "usage", "qr", "--out", out / "statement.svg", *site.words)
    (bundle,) = out.glob("usage-*.tar.gz")
    run("licenses", "acknowledge", bundle, "--keys", vendor, "--device-key", key, "--out", out)
    (ack,) = out.glob("ack-*.dsse.json")
    run("sidecar", "usage", "import-ack", ack, *site.words)
    pages = ("--html", out / "report.html", "--csv", out / "totals.csv")
    for where in (bundle, site.folder / "output"):
        run("usage-verify", where, "--trust-root", vendor / "trust-root.json", "--device-key", key, *pages)


# ---- what is promised -----------------------------------------------------------------------------------------------


def test_documents_were_read_and_their_senders_got_the_words(day: Day) -> None:
    for name, text in day.texts.items():
        word = WORDS["text of a PDF" if "PDF" in name else "text of an image"]
        assert word.lower() in text.lower(), name
    assert len(day.texts) == 8


def test_refusals_were_refusals(day: Day) -> None:
    assert day.answers["Host"] == 202
    assert {day.answers[f"analyze {name}"] for name in ("no document", "PDF encrypted")} == {400}
    assert day.answers["analyze too long"] == 400
    assert day.answers[f"/{WORDS['path']}"] == 404
    assert all(status < 500 for status in day.answers.values()), day.answers


def test_service_saw_the_client_at_its_address(day: Day) -> None:
    assert CLIENT in day.seen


def test_spool_holds_the_words_of_results_and_nothing_beside_them(day: Day) -> None:
    """The one place; so the search does find, and would have found elsewhere."""
    assert day.results == set(DRAWN)
    left = day.search.found_below(day.site.folder / "share", but="result.jsonl")
    assert left == {}


@pytest.mark.parametrize("part", ["state", "output", "license", "tmp", "carried"])
def test_nothing_is_kept(day: Day, part: str) -> None:
    assert day.search.found_below(day.site.folder / part) == {}


def test_nothing_was_there_even_while_documents_were_read(day: Day) -> None:
    assert day.meanwhile == []


def test_ledger_records_and_bundle_were_among_what_was_searched(day: Day) -> None:
    for name in ("state/ledger.db", "state/meter.json", "carried/statement.svg", "carried/report.html"):
        assert (day.site.folder / name).stat().st_size, name
    for pattern in ("output/**/*.jsonl", "output/**/checkpoint", "output/**/acks/*", "carried/usage-*.tar.gz"):
        assert any(day.site.folder.glob(pattern)), pattern
    (bundle,) = (day.site.folder / "carried").glob("usage-*.tar.gz")
    entry = day.site.record_lines()[0]
    assert Search({"an entry": json.dumps(entry, separators=(",", ":"))}).found_in(bundle.read_bytes()) == {"an entry"}


def test_no_process_logs_it_at_the_most_talkative_level(day: Day) -> None:
    log = day.site.log.read_bytes()
    assert b"dbug:" in log
    assert day.search.found_in(log) == set()


def test_neither_the_log_on_disk_nor_fluentd_tells_it(day: Day) -> None:
    assert day.fluentd is not None
    assert {f"tollgate.{process}" for process in ("web", "meter", "launcher")} <= {
        tag for tag, _, _ in day.fluentd.events
    }
    assert any(record["level"] == "Debug" for record in day.fluentd.records("tollgate.web"))
    assert day.search.found_in(day.fluentd.raw) == set()
    logs = list(day.site.folder.glob("output/computervisionread/*/logs/web-*.log"))
    assert any('"level": "Debug"' in path.read_text() for path in logs)
    for path in logs:
        assert day.search.found_in(path.read_bytes()) == set()


@pytest.mark.parametrize(
    "path", ["/", "/ready", "/status", "/metrics", "/records/usage-logs/", "/swagger", "/ContainerLiveness"]
)
def test_pages_do_not_tell_it(day: Day, path: str) -> None:
    assert day.pages[path]
    assert day.search.found_in(day.pages[path]) == set()


def test_commands_do_not_tell_it(day: Day) -> None:
    for name, printed in day.commands.items():
        assert printed, name
        assert day.search.found_in(printed) == set(), name


def test_other_users_of_the_host_can_read_nothing_but_the_public_key(day: Day) -> None:
    for part in ("state", "output", "share"):
        for path in (day.site.folder / part).rglob("*"):
            bits = path.stat().st_mode & 0o007
            assert bits == (0o004 if path.name == "device.pub" else 0), path


def test_every_record_line_has_the_members_that_it_must_and_no_others(day: Day) -> None:
    uses = [line for line in day.site.record_lines() if line["kind"] == "use"]
    assert uses
    for line in uses:
        assert set(line) == {
            "apiType", "boottime_ms", "containerId", "containerType", "containerVersion", "effective_ms", "id", "kind",
            "meter", "page", "requestTime", "seq", "wall_ms",
        }  # fmt: skip
    assert "language" not in json.dumps(uses)
