"""Nothing reaches out: the sockets of a service at work. Traces prove it in `tests/appliance/test_egress.py`."""

import ipaddress
import socket

from tests.e2e.site import Site
from tests.hard_pages import sign_in_a_photo
from tests.pages import as_png, printed_page


def test_every_socket_of_a_service_at_work_stays_on_this_machine(service: Site) -> None:
    located = service.submit(as_png(sign_in_a_photo()))
    assert service.sync(as_png(printed_page(size=(1240, 600)))).status_code == 200
    service.result(located)
    found = [one for process in service.processes() for one in process.net_connections("inet")]
    assert found, "not even the port that it listens on is seen"
    for one in found:
        assert one.type == socket.SOCK_STREAM, one
        assert all(ipaddress.ip_address(end.ip).is_loopback for end in (one.laddr, one.raddr) if end), one
