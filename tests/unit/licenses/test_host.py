"""Host binding: k of n salted factors, and nothing of the host in the licence."""

import hmac

import pytest

from licenses.errors import FormatError
from licenses.host import Bindings, Factor, FactorName, HostFactors, collect, factor_digest

HOST = HostFactors(machine_id="0f1e2d3c", product_uuid="4C4C4544-0035", disk_serials=("S1", "S2"), operator_id="Ward 7")


@pytest.fixture
def machine(tmp_path):
    """A machine's `etc` and `sys`."""
    for path, text in {
        "etc/machine-id": "0f1e2d3c4b5a\n",
        "sys/class/dmi/id/product_uuid": "4c4c4544-0035\n",
        "sys/block/sda/device/serial": "  WD-1234  \n",
        "sys/block/nvme0n1/device/serial": "NV-1\n",
        "sys/block/vda/serial": "virt-1\n",
        "sys/block/loop0/serial": "never\n",
        "sys/block/sdb/size": "1\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_facts_are_collected(machine):
    assert collect(operator_id="ward-7", filesystem=machine) == HostFactors(
        machine_id="0f1e2d3c4b5a",
        product_uuid="4c4c4544-0035",
        disk_serials=("NV-1", "WD-1234", "virt-1"),
        operator_id="ward-7",
    )


def test_nothing_to_read_is_nothing_known(tmp_path):
    assert collect(filesystem=tmp_path / "none") == HostFactors()


@pytest.mark.parametrize("text", ["", "None", "To Be Filled By O.E.M.", "00000000-0000-0000-0000-000000000000"])
def test_placeholder_is_no_fact(machine, text):
    (machine / "sys/class/dmi/id/product_uuid").write_text(text)
    assert collect(filesystem=machine).product_uuid is None


@pytest.mark.parametrize(
    ("host", "count"),
    [
        (HOST, 5),
        (HostFactors(machine_id=" 0F1E2D3C"), 1),
        (HostFactors(disk_serials=("other", "s2")), 1),
        (HostFactors(machine_id="S1"), 0),
        (HostFactors(operator_id="ward  7"), 1),
        (HostFactors(), 0),
    ],
)
def test_matches_are_counted_by_kind_and_value(host, count):
    bindings = HOST.bind(threshold=1)
    assert host.matches(bindings) == count
    assert host.is_bound_by(bindings) == (count >= 1)


def test_every_host_fits_a_floating_licence():
    assert HostFactors().is_bound_by(Bindings())


def test_default_threshold_forgives_one_swapped_part():
    assert HOST.bind().threshold == 4
    assert HostFactors(operator_id="x").bind().threshold == 1


def test_only_the_kinds_asked_for_are_bound():
    bindings = HOST.bind(names=[FactorName.OPERATOR_ID])
    assert [factor.name for factor in bindings.factors] == [FactorName.OPERATOR_ID]


def test_binding_nothing_is_refused():
    with pytest.raises(FormatError, match="none of its facts"):
        HostFactors().bind()


def test_salts_differ_and_facts_do_not_show():
    first, second = HOST.bind(), HOST.bind()
    assert first.salt != second.salt
    assert first.factors != second.factors
    assert b"ward" not in first.to_bytes().lower()


def test_factor_file_is_read_back():
    bindings = HOST.bind()
    assert Bindings.from_bytes(bindings.to_bytes()) == bindings
    assert Bindings.from_bytes(Bindings().to_bytes()) == Bindings()


def test_digest_is_hmac_over_kind_and_value():
    digest = factor_digest(b"salt", FactorName.OPERATOR_ID, "Ward  7")
    assert digest == hmac.digest(b"salt", b"operator_id\0ward 7", "sha256")
    assert digest == factor_digest(b"salt", FactorName.OPERATOR_ID, " ward 7")
    assert digest != factor_digest(b"salt", FactorName.MACHINE_ID, "ward 7")


def test_too_many_factors_are_refused():
    factors = tuple(Factor(FactorName.DISK_SERIAL, bytes([n]) * 32) for n in range(17))
    with pytest.raises(FormatError):
        Bindings(threshold=1, factors=factors, salt=bytes(16))
