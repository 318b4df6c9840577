"""A server that speaks the Forward protocol, message mode, over a real socket, with or without TLS."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct
import threading
from pathlib import Path
from typing import Any

import msgpack
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class FakeFluentd:
    """Takes events on a port of its own.

    Attributes:
        port: Where it listens.
        events: `(tag, time in seconds, record)` of each, as they came.
        raw: All bytes that came.
        connections: How many there were.
    """

    def __init__(self, certificate: tuple[Path, Path] | None = None, *, port: int = 0) -> None:
        self.events: list[tuple[str, float, dict[str, Any]]] = []
        self.raw = b""
        self.connections = 0
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*certificate)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def records(self, tag: str = "") -> list[dict[str, Any]]:
        return [record for given, _, record in list(self.events) if given == tag or not tag]

    def hang_up(self) -> None:
        """Break all connections; new ones are taken."""
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            self._open.append(connection)
            unpacker = msgpack.Unpacker()
            with connection:
                while piece := connection.recv(65536):
                    self.raw += piece
                    unpacker.feed(piece)
                    for message in unpacker:
                        if not isinstance(message, list):
                            return  # no Forward protocol
                        tag, at, record = message
                        assert isinstance(at, msgpack.ExtType)
                        assert at.code == 0
                        seconds, nanoseconds = struct.unpack(">II", at.data)
                        self.events.append((tag, seconds + nanoseconds / 1e9, record))


def a_certificate(folder: Path, *, for_other: bool = False) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 (or for another host) and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fluentd")])
    now = datetime.datetime.now(datetime.UTC)
    address = ipaddress.ip_address("127.0.0.2" if for_other else "127.0.0.1")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(address)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "fluentd.pem", folder / "fluentd.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, private
