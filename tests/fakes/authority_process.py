"""The authority's server in a process of its own, around services that know one key and take in nothing.

python -m tests.fakes.authority_process ADDRESS FOLDER HEAD_SECONDS BODY_SECONDS CONNECTIONS [CERTIFICATE KEY]

What is tested with it is the server: bounds, timeouts, signals. Whoever has the key "good" may call; a bundle is
answered with its length, or, when it begins with "wait", after a while; "turn" asks how long a thread keeps others
waiting.
"""

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from flask import Flask

from licenses.authority.web import bodies, server, worker
from licenses.authority.web.app import create_app
from licenses.authority.web.server import AuthorityServer, Certificate, address_of, take_address
from licenses.authority.web.services import CallRate, Services, Uploads
from licenses.errors import InvalidKeyError, RecordError

MAX_BYTES = 1_000_000
WAIT_SECONDS = 3.0


def main() -> None:
    address, folder, head_seconds, body_seconds, connections, *files = sys.argv[1:]
    server.CONNECTIONS = int(connections)
    worker.HEAD_SECONDS = float(head_seconds)
    worker.BODY_SECONDS = bodies._UPLOAD_SECONDS = float(body_seconds)

    def subscription_of_key(key: str) -> Any:
        if key != "good":
            raise InvalidKeyError("there is no such key")
        return SimpleNamespace(id="s-1")

    def take_bundle(_subscription: Any, path: Path) -> Any:
        blob = path.read_bytes()
        if blob.startswith(b"wait"):
            time.sleep(WAIT_SECONDS)
        if blob == b"turn":
            raise RecordError(f"a turn takes {sys.getswitchinterval() * 1e6:.0f} us")
        raise RecordError(f"{path.name} has {len(blob)} bytes, mode {path.parent.stat().st_mode & 0o777:o}")

    def license_for(_subscription: Any, **_asked: Any) -> bytes:
        raise RecordError("there is none")

    def build() -> Flask:
        return create_app(
            cast(
                "Services",
                SimpleNamespace(
                    database=SimpleNamespace(one=lambda _sql: {}, close=lambda: sys.stdout.write("closed\n")),
                    accounts=SimpleNamespace(subscription_of_key=subscription_of_key),
                    licensing=SimpleNamespace(license_for=license_for),
                    intake=SimpleNamespace(take_bundle=take_bundle),
                    uploads=Uploads(Path(folder), max_bytes=MAX_BYTES, at_once=3),
                    calls=CallRate(),
                    clerk=None,
                ),
            )
        )

    listener = take_address(address)
    certificate = Certificate(chain=Path(files[0]), key=Path(files[1])) if files else None
    greeting = address_of(listener, is_tls=certificate is not None)
    AuthorityServer(listener, build, certificate=certificate, greeting=greeting).run()


if __name__ == "__main__":
    main()
