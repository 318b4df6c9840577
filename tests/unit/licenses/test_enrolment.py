"""The enrolment: signed by the key that it enrols, and by no other."""

import dataclasses

import pytest

from licenses import envelope
from licenses.device_key import DeviceKey, device_id_of
from licenses.enrolment import Enrolment, enrol, open_enrolment, read_enrolment
from licenses.errors import BadSignatureError, FormatError, KeyFileError, LicensesError
from licenses.host import HostFactors
from licenses.keys import SigningKey
from licenses.model import LedgerAnchor
from tests.fakes.licences import NOW
from tests.fakes.records import FakeMeter

KEY = SigningKey.generate("device")
DEVICE = DeviceKey(KEY)
BINDINGS = HostFactors(machine_id="m", operator_id="ward-7").bind()
ANCHOR = LedgerAnchor(origin=f"vendor.example/{device_id_of(KEY.verifying.raw)}", size=3, root=bytes(32))
ENROLMENT = Enrolment(
    device_public=KEY.verifying.raw,
    bindings=BINDINGS,
    created_at=NOW,
    product_version="0.1.0",
    first_checkpoint=ANCHOR,
    last_checkpoint=dataclasses.replace(ANCHOR, size=9),
)


def test_enrolment_is_read_back(tmp_path):
    assert open_enrolment(ENROLMENT.seal(KEY)) == ENROLMENT
    (tmp_path / "e").write_bytes(ENROLMENT.seal(KEY) + b"\n")
    assert read_enrolment(tmp_path / "e") == ENROLMENT


def test_key_must_be_ones_own():
    other = SigningKey.generate("device")
    with pytest.raises(FormatError, match="the key that it enrols"):
        ENROLMENT.seal(other)
    payload = envelope.unverified_payload(ENROLMENT.seal(KEY)).payload
    for key in (other, SigningKey(KEY.key_id, other.private)):
        with pytest.raises(LicensesError):
            open_enrolment(envelope.seal(payload, envelope.ENROLMENT_TYPE, [key]))


SEALED = ENROLMENT.seal(KEY)
OTHERS = {
    "empty": (b"", "the file is empty", "licenses request"),
    "line end": (b"\n", "the file is empty", "licenses request"),
    "licence": (envelope.seal(b"{}", envelope.LICENSE_TYPE, [KEY]), "it is a licence", "licenses request"),
    "armoured": (
        envelope.armour(envelope.seal(b"{}", envelope.ACK_TYPE, [KEY]), envelope.ACK_TYPE),
        "it is an acknowledgement",
        "licenses request",
    ),
    "bundle": (b"\x1f\x8b\x08" + bytes(40), "it is packed, as usage bundles are", "licenses authority intake"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(40), "not UTF-8", "licenses request"),
    "cut": (SEALED[:200], "not JSON", "licenses request"),
    "edited": (SEALED.replace(b",", b", "), "not spelled", "not saved by an editor"),
    "too long": (b"x" * 70_000, "too many", "licenses request"),
}


@pytest.mark.parametrize(("blob", "cause", "step"), OTHERS.values(), ids=OTHERS)
def test_another_file_is_called_what_it_is(tmp_path, blob, cause, step):
    with pytest.raises(FormatError, match=f"^this is no enrolment: .*{cause}") as caught:
        open_enrolment(blob)
    assert step in caught.value.next_step
    assert "vendor" not in caught.value.next_step
    (tmp_path / "e").write_bytes(blob)
    with pytest.raises(FormatError, match="this is no enrolment: ") as caught:
        read_enrolment(tmp_path / "e")
    assert step in caught.value.next_step


def test_a_signature_of_another_is_told_with_a_step_that_fits():
    payload = envelope.unverified_payload(SEALED).payload
    other = SigningKey.generate("device")
    for key in (other, SigningKey(KEY.key_id, other.private)):
        with pytest.raises(BadSignatureError, match="not signed by the device that it names") as caught:
            open_enrolment(envelope.seal(payload, envelope.ENROLMENT_TYPE, [key]))
        assert "licenses request" in caught.value.next_step


def test_checkpoints_come_in_pairs_and_from_this_device():
    with pytest.raises(FormatError, match="both checkpoints or none"):
        dataclasses.replace(ENROLMENT, last_checkpoint=None)
    with pytest.raises(FormatError, match="not of the device"):
        dataclasses.replace(ENROLMENT, last_checkpoint=dataclasses.replace(ANCHOR, origin="vendor.example/0"))


def test_first_and_last_checkpoint_are_found(tmp_path):
    meter = FakeMeter(tmp_path, device=KEY)
    for _ in range(3):
        meter.window(uses=1)
    found = open_enrolment(enrol(DEVICE, BINDINGS, output=tmp_path, at=NOW, product_version="0.1.0"))
    sizes = sorted(int(path.name) for path in meter.folder.glob("checkpoints/*"))
    assert (found.first_checkpoint.size, found.last_checkpoint.size) == (sizes[0], sizes[-1])


def test_without_records_there_are_no_checkpoints(tmp_path):
    for output in (None, tmp_path, tmp_path / "none"):
        found = open_enrolment(enrol(DEVICE, BINDINGS, output=output, at=NOW, product_version="0.1.0"))
        assert found.last_checkpoint is None


def test_damaged_checkpoint_is_named(tmp_path):
    meter = FakeMeter(tmp_path, device=KEY)
    meter.window(uses=1)
    path = meter.folder / "checkpoint"
    origin, _, rest = path.read_bytes().split(b"\n", 2)
    grown = b"\n".join([origin, b"99", rest])
    for content in (b"\xff", b"rubbish", grown):
        path.chmod(0o600)
        path.write_bytes(content)
        with pytest.raises(LicensesError):
            enrol(DEVICE, BINDINGS, output=tmp_path, at=NOW, product_version="0.1.0")
    path.unlink()
    path.mkdir()
    with pytest.raises(KeyFileError):
        enrol(DEVICE, BINDINGS, output=tmp_path, at=NOW, product_version="0.1.0")
