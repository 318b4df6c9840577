"""The totals as CSV: columns that do not change, sums that add up, and no cell that is a formula."""

import csv
import io
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from licenses.usage_log.report import Coverage, InstanceReport, Report
from licenses.usage_log.report_csv import COLUMNS, csv_text
from licenses.usage_log.verify import main, verify_records
from tests.fakes.licences import a_vendor
from tests.fakes.records import FakeMeter

VENDOR = a_vendor()
READ_PAGES = "CognitiveServices.ComputerVision.Container.ReadPages"
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
def meter(tmp_path):
    meter = FakeMeter(tmp_path / "output")
    for days in (1, 16, 1):
        meter.window(uses=3)
        meter.window(uses=1)
        meter.wait(days * DAY_MS)
        meter.entry("boot", boot_id=meter.boot_id)
    meter.window(uses=2)
    return meter


def _rows(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(report))))


def _verify(meter: FakeMeter) -> Report:
    return verify_records(meter.folder, VENDOR.trust_root, device_keys=[meter.device.verifying])


def test_months_and_days_are_told_and_add_up(meter):
    rows = _rows(_verify(meter))
    assert [(row["kind"], row["period"], row["quantity"]) for row in rows] == [
        ("month", "2027-01", "8"),
        ("month", "2027-02", "6"),
        ("day", "2027-01-15", "4"),
        ("day", "2027-01-16", "4"),
        ("day", "2027-02-01", "4"),
        ("day", "2027-02-02", "2"),
    ]
    assert {(row["instance"], row["meter"], row["coverage"], row["evaluation"]) for row in rows} == {
        (meter.instance, READ_PAGES, "sealed", "no")
    }


def test_first_line_names_the_columns():
    assert csv_text(Report(instances=())) == ",".join(COLUMNS) + "\n"


def test_period_tells_the_weakest_of_its_ranges(meter):
    meter.prune(1)
    meter.window(uses=1, seal=False)
    coverage = {row["period"]: row["coverage"] for row in _rows(_verify(meter))}
    assert coverage == {
        "2027-01": "pruned", "2027-01-15": "pruned", "2027-01-16": "sealed",
        "2027-02": "unsealed", "2027-02-01": "sealed", "2027-02-02": "unsealed",
    }  # fmt: skip


def test_days_beside_a_hole_are_not_told_to_be_whole(meter):
    meter.files[3].unlink()
    coverage = {row["period"]: row["coverage"] for row in _rows(_verify(meter))}
    assert coverage["2027-01-16"] == coverage["2027-02-01"] == "missing"
    assert coverage["2027-01-15"] == coverage["2027-02-02"] == "sealed"


@given(
    st.dictionaries(st.text(max_size=12) | st.sampled_from(["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"]), st.integers(1, 9))
)
def test_no_cell_is_a_formula_or_breaks_its_line(meters):
    one = InstanceReport(
        instance="=HYPERLINK()", meters=meters, months={"2027-01": meters}, coverage={"2027-01": Coverage.SEALED}
    )
    rows = list(csv.reader(io.StringIO(csv_text(Report(instances=(one,))))))
    assert len(rows) == 1 + len(meters)
    assert not [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r")]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 5)), min_size=1, max_size=12))
@settings(deadline=None, max_examples=25)
def test_sums_of_days_are_those_of_months_and_of_all(tmp_path_factory, steps):
    meter = FakeMeter(tmp_path_factory.mktemp("meter"))
    for days, uses in steps:
        meter.wait(days * DAY_MS)
        meter.entry("boot", boot_id=meter.boot_id)
        meter.window(uses=uses)
    rows = _rows(_verify(meter))
    sums = Counter()
    for row in rows:
        sums[row["kind"]] += int(row["quantity"])
        if row["kind"] == "day":
            sums[row["period"][:7]] += int(row["quantity"])
    assert sums["day"] == sums["month"] == sum(uses for _, uses in steps)
    assert all(sums[row["period"]] == int(row["quantity"]) for row in rows if row["kind"] == "month")


def test_command_writes_and_prints_it(meter, tmp_path, capsys):
    root, out = tmp_path / "root.json", tmp_path / "totals.csv"
    root.write_bytes(VENDOR.trust_root_blob)
    assert main([str(meter.folder), "--trust", str(root), "--csv", str(out)]) == 0
    assert "VERDICT" in capsys.readouterr().out
    assert main([str(meter.folder), "--trust", str(root), "--csv", "-"]) == 0
    assert capsys.readouterr().out == out.read_text()
    assert out.read_text().startswith("kind,period,instance,meter,quantity,coverage,evaluation\n")
