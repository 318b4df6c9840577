"""The command `licenses authority serve`: the service over HTTP, in the foreground.

Invariant: whatever would keep it from working (a taken port, a missing database, keys that cannot be read) is told
before it says that it listens, with a next step and an exit code other than 0. What it needs is imported late: no other
command loads a web server.
"""

from collections.abc import Sequence
from pathlib import Path

import click

from licenses.authority.clerk_access import ClerkAccess, TrustedProxy
from licenses.authority.cli_clerk import PASSWORDS_OPTION, beside
from licenses.authority.cli_options import DATABASE_OPTION, with_keys
from licenses.authority.database import open_database
from licenses.authority.passwords import PasswordFile
from licenses.authority.proxies import Proxies
from licenses.authority.vendor_keys import VendorKeys
from licenses.cli_text import FILE, now
from licenses.errors import ClerkAccessError

_MIB = 1024**2


@click.command()
@DATABASE_OPTION
@with_keys
@click.option(
    "--listen",
    default="127.0.0.1:8400",
    show_default=True,
    envvar="TOLLGATE_AUTHORITY_LISTEN",
    show_envvar=True,
    metavar="HOST:PORT",
    help="Where to listen: an address of this machine, [::1]:8400 for IPv6, 0.0.0.0:8400 for all.",
)
@click.option("--certificate", type=FILE, help="Speak TLS with this certificate: PEM, with its chain.")
@click.option("--certificate-key", type=FILE, help="Its private key: PEM, unencrypted, mode 0600.")
@click.option(
    "--max-bundle",
    type=click.IntRange(1, 64 * 1024),
    default=1024,
    show_default=True,
    metavar="MIB",
    help="Largest usage bundle that is taken in.",
)
@click.option(
    "--uploads",
    type=FILE,
    metavar="FOLDER",
    help="Where bundles lie while they are looked at.  [default: 'uploads' beside the database]",
)
@PASSWORDS_OPTION
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    help="A reverse proxy before the service, or a network of them: from there, X-Forwarded-For and X-Forwarded-Proto "
    "tell who asks, and whether over TLS; may be given several times.",
)
@click.option(
    "--clerk-header",
    metavar="NAME",
    help="Believe the clerk's name in this header of a reverse proxy, such as X-Remote-User; needs --clerk-proxy.",
)
@click.option(
    "--clerk-proxy",
    "clerk_proxies",
    multiple=True,
    metavar="ADDRESS",
    help="An address, or a network such as 10.0.8.0/28, from which that header counts; may be given several times.",
)
def serve(
    *,
    database: str,
    keys_folder: Path,
    key_command: str | None,
    listen: str,
    certificate: Path | None,
    certificate_key: Path | None,
    max_bundle: int,
    uploads: Path | None,
    passwords_file: Path | None,
    proxies: Sequence[str],
    clerk_header: str | None,
    clerk_proxies: Sequence[str],
) -> None:
    """Serve licences, usage and acknowledgements over HTTP, until Ctrl+C or SIGTERM.

    Appliances in connected mode name this address in their setting Billing; docs/protocol.md tells what they say to
    each other. It listens on this machine alone unless --listen says otherwise. API keys travel in every request: on
    any other address give --certificate, or put a reverse proxy that speaks TLS before it.

    The clerk's page is at /clerk/. It is closed until 'licenses authority password' has set a password, or a proxy is
    named that asks for one.

    The first line of output tells where it listens, as soon as it answers. The log is JSON, one object in a line, on
    standard error; it holds no keys and no addresses of clients. GET /tollgate/v1/health is for whoever watches it.
    """
    if (certificate is None) != (certificate_key is None):
        raise click.UsageError("Give --certificate and --certificate-key together, or neither.")
    from licenses.authority.web import server
    from licenses.authority.web.services import Uploads

    shown = None
    if certificate is not None and certificate_key is not None:
        shown = server.Certificate(chain=certificate, key=certificate_key)
        shown.require_usable()
    listener = server.take_address(listen)
    opened = open_database(database)
    opened.close()
    keys = VendorKeys(keys_folder, key_command=key_command)
    keys.issuing_key()
    keys.ack_key()
    access = ClerkAccess(
        listen=listen,
        passwords=PasswordFile(passwords_file or beside(opened.path)),
        proxy=TrustedProxy.from_words(clerk_header, clerk_proxies),
        forwarders=Proxies.from_words(proxies, danger="pass for any client"),
    )
    place = Uploads(uploads or opened.path.parent / "uploads", max_bytes=max_bundle * _MIB)
    address = server.address_of(listener, is_tls=shown is not None)
    if shown is None and not server.is_for_this_machine(listener):
        click.echo(
            f"API keys travel to {address} in clear: give --certificate, or let only a reverse proxy reach it.",
            err=True,
        )
    greeting = (
        f"Now listening on: {address}\n"
        f"Vendor {keys.trust_root.vendor}, database {opened.path}, bundles up to {max_bundle} MiB. Ctrl+C ends it.\n"
        f"{_clerk_line(access, address)}"
    )
    with server.sole_use(place.folder):
        server.AuthorityServer(
            listener,
            lambda: server.build_app(database, keys, place, now, access=access),
            certificate=shown,
            greeting=greeting,
        ).run()


def _clerk_line(access: ClerkAccess, address: str) -> str:
    """Where the clerk's page is, or why there is none.

    Raises:
        LicensesError: The file of passwords cannot be read.
    """
    try:
        access.require_way_in()
    except ClerkAccessError as exc:
        return f"Clerk's page: closed, {exc}. {exc.next_step}"
    return f"Clerk's page: {address}/clerk/"


COMMANDS: tuple[click.Command, ...] = (serve,)
