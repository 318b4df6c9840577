"""The report as one page, for people who would rather look than read.

Invariants:

* One file, complete in itself: no script, no font, no picture and no address that a browser would fetch.
* The verdict stands on top, in words and by shape, under nothing but the word that it was an evaluation; whatever is
  not covered stands beside what is.
* All text is escaped, whatever the records hold, and every list is bounded, with a word on what was left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from licenses.usage_log import charts
from licenses.usage_log.charts import Bar, Row, Stretch, text
from licenses.usage_log.page_style import STYLE, VERDICT_MARKS
from licenses.usage_log.report import (
    Coverage,
    Finding,
    InstanceReport,
    LicenseTerm,
    Report,
    Severity,
    Start,
    Verdict,
    counted,
    duration_text,
    gravest_first,
    moment_text,
)
from licenses.verify import day_text

MAX_ROWS = 100
MAX_DAYS = 400
MAX_METERS = 6
MAX_STOPS = 20

COVERAGE_WORDS: Mapping[Coverage, str] = {
    Coverage.ACKED: "sealed by the device, and acknowledged by the vendor",
    Coverage.SEALED: "sealed by the pinned device key",
    Coverage.UNPINNED: "in agreement with itself; no key was pinned that proves whose it is",
    Coverage.UNSEALED: "here, but nothing proves it",
    Coverage.PRUNED: "not here: the records begin later",
    Coverage.MISSING: "not here, though it should be",
    Coverage.DAMAGED: "here, but not what was sealed, or not to be read",
}
_SEVERITY_WORDS: Mapping[Severity, str] = {
    Severity.TAMPERED: "Tampered",
    Severity.UNREADABLE: "Unreadable",
    Severity.GAP: "Gap",
    Severity.NOTE: "Note",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """How an audit was done; what the page says of itself.

    Attributes:
        source: The folder or bundle.
        vendor: The vendor of the trust root.
        trust_root_version: Its version.
        evaluation: Whether the trust root is for evaluation.
        pinned: Ids of the device keys pinned.
        kept: The kept checkpoint, in words; empty for none.
        acks: Acknowledgements given, besides those found.
        licenses: Licence files given; None when licences were not compared.
        strict: Whether good but not anchored was to be not good enough.
        done_at: When it was done, aware UTC.
        version: The verifier's version.
    """

    source: str
    vendor: str
    trust_root_version: int
    evaluation: bool
    pinned: Sequence[str]
    kept: str
    acks: int
    licenses: int | None
    strict: bool
    done_at: datetime
    version: str


def html_text(report: Report, how: Circumstances) -> str:
    """The whole page."""
    title = f"Usage records: {report.verdict.value.upper()}"
    body = "\n".join(_body(report, how))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{charts.PATTERNS}\n{body}\n</body>\n"
        "</html>\n"
    )


def _body(report: Report, how: Circumstances) -> Iterator[str]:
    yield f'<header><p class="kicker">Audit of usage records</p><h1>{_heading(report)}</h1></header>'
    yield "<main>"
    if how.evaluation or any(one.evaluation for one in report.instances):
        yield (
            '<p class="evaluation"><strong>Evaluation.</strong> Some or all of this was done under an evaluation '
            "licence or an evaluation trust root. It is no basis for an invoice.</p>"
        )
    yield _verdict(report, how)
    yield _circumstances(report, how)
    if report.findings:
        yield f"<section><h2>Findings on the whole</h2>{_findings(report.findings, 0)}</section>"
    for number, one in enumerate(report.instances):
        yield _instance(one, f"i{number}")
    yield _legend(report)
    yield "</main>"
    yield (
        f"<footer><p>Made {text(day_text(how.done_at))} by usage-verify {text(how.version)}. Days and months are UTC, "
        "in effective time: the time that the meter vouches for, which does not run back when a clock is set.</p>"
        "</footer>"
    )


def _heading(report: Report) -> str:
    match [one.origin or one.instance for one in report.instances]:
        case []:
            return "No records were read"
        case [only]:
            return text(only)
        case several:
            return f"{len(several)} instances"


def _verdict(report: Report, how: Circumstances) -> str:
    verdict = report.verdict
    word, _, sentence = report.verdict_text.partition(". ")
    code = report.exit_code(strict=how.strict)
    totals = "".join(f'<p class="total">{line}</p>' for line in _grand_totals(report))
    return (
        f'<section class="verdict v-{verdict.value}" aria-label="Verdict">{VERDICT_MARKS[verdict]}'
        f'<div><p class="word">{text(word)}</p><p>{text(sentence)}</p>{totals}'
        f'<p class="quiet">Exit code {int(code)}{" (strict)" if how.strict else ""}</p></div></section>'
    )


def _grand_totals(report: Report) -> Iterator[str]:
    sums: dict[str, int] = {}
    for one in _largest_copies(report):
        for meter, quantity in one.meters.items():
            sums[meter] = sums.get(meter, 0) + quantity
    doubted = report.verdict not in (Verdict.GOOD, Verdict.UNANCHORED)
    for meter, quantity in sorted(sums.items())[:MAX_METERS]:
        words = " as the records tell; read the verdict first" if doubted else ""
        yield f"<strong>{quantity:,}</strong> {text(meter)}{words}"


def _largest_copies(report: Report) -> Iterable[InstanceReport]:
    """One report of each log: of several copies the largest, which holds what the others hold."""
    largest: dict[str, InstanceReport] = {}
    for one in report.instances:
        other = largest.setdefault(one.origin, one)
        if (one.size, one.entries) > (other.size, other.entries):
            largest[one.origin] = one
    return largest.values()


def _circumstances(report: Report, how: Circumstances) -> str:
    found = {one.pinned_key for one in report.instances}
    pins = "".join(
        f"<li><code>{text(key)}</code>{'' if key in found else ' (no records are of it)'}</li>"
        for key in how.pinned[:MAX_ROWS]
    )
    licenses = "not compared (none was given)" if how.licenses is None else f"{how.licenses} given and compared"
    acked = sum(1 for one in report.instances if one.acked)
    rows = (
        ("What", f"<code>{text(how.source)}</code>"),
        ("Vendor", f"{text(how.vendor)}, trust root version {how.trust_root_version}"),
        (
            "Pinned device keys",
            f'<ul class="plain">{pins}</ul>'
            if pins
            else "<strong>none</strong>: nothing proves whose records these are",
        ),
        (
            "Kept checkpoint",
            text(how.kept) if how.kept else "none given: an older state of the same log would not be noticed",
        ),
        ("Acknowledgements", f"{how.acks} given; {acked} of {len(report.instances)} instances acknowledged"),
        ("Licences", licenses),
    )
    cells = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows)
    return f'<section><h2>What was checked, and with what</h2><table class="facts">{cells}</table></section>'


def _instance(one: InstanceReport, key: str) -> str:
    parts = [
        f'<section class="instance"><h2 id="{key}">Instance <code>{text(one.instance)}</code> '
        f'<span class="chip v-{one.verdict.value}">{text(one.verdict.value)}</span></h2>'
    ]
    if one.evaluation:
        parts.append('<p class="evaluation"><strong>Evaluation.</strong> Not a basis for an invoice.</p>')
    parts.append(_facts(one))
    parts.append(f"<h3>Findings</h3>{_findings(one.findings, one.suppressed)}")
    if one.ranges:
        parts.append(f"<h3>What is covered</h3>{_ranges(one, key)}")
    parts.extend(_usage(one, key))
    parts.extend(_time(one, key))
    parts.append("</section>")
    return "\n".join(parts)


def _facts(one: InstanceReport) -> str:
    pinned = f"<code>{text(one.pinned_key)}</code> (pinned)" if one.pinned_key else "<strong>not pinned</strong>"
    kinds = ", ".join(f"{text(kind)} {count:,}" for kind, count in sorted(one.counts.items()))
    rows = [("Log", f"<code>{text(one.origin or 'unknown')}</code>"), ("Signed by", pinned)]
    if one.first_ms is not None and one.last_ms is not None:
        rows.append(("Covers", f"{text(moment_text(one.first_ms))} to {text(moment_text(one.last_ms))}"))
    rows.append(
        ("Entries", f"{one.entries:,} in {counted(one.files, 'file', 'files')}{f' ({kinds})' if kinds else ''}")
    )
    rows.extend(("Total", f"<strong>{sums:,}</strong> {text(meter)}") for meter, sums in _meters(one))
    if one.acked:
        rows.append(("Acknowledged", f"the entries [0, {one.acked:,}), by the vendor"))
    if one.unanchored:
        rows.append(("Not anchored", text(one.unanchored)))
    cells = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows)
    return f'<table class="facts">{cells}</table>'


def _meters(one: InstanceReport) -> list[tuple[str, int]]:
    return sorted(one.meters.items())[:MAX_METERS]


def _findings(findings: Sequence[Finding], suppressed: int) -> str:
    if not findings:
        return '<p class="quiet">None.</p>'
    rows = [
        (
            f'<span class="severity s-{finding.severity.value}">{_SEVERITY_WORDS[finding.severity]}</span>',
            text(finding.message),
            f'<code class="where">{text(finding.where)}</code>' if finding.where else "",
            f'<code class="one">{text(finding.code)}</code>',
        )
        for finding in gravest_first(findings)
    ]
    left_out = suppressed + max(0, len(rows) - MAX_ROWS)
    more = f'<p class="quiet">{left_out:,} more of the same kinds are not listed.</p>' if left_out else ""
    return _table(("Severity", "What", "Where", "Code"), rows, wide=1) + more


def _ranges(one: InstanceReport, key: str) -> str:
    rows = [
        (
            f"[{part.first:,}, {part.end:,})",
            f"{part.end - part.first:,}",
            f"{_swatch(part.coverage)} {part.coverage.value}",
            COVERAGE_WORDS[part.coverage],
        )
        for part in one.ranges
    ]
    chart = charts.range_bar(f"{key}-ranges", "Coverage of the log's entries, from the first on", one.ranges)
    return chart + _table(("Entries", "How many", "Coverage", "That is"), rows, numbers=(0, 1), wide=3)


def _usage(one: InstanceReport, key: str) -> Iterator[str]:
    for number, (meter, _) in enumerate(_meters(one)):
        months = _months(one, meter)
        if not months:
            continue
        yield f"<h3>Per month: {text(meter)}</h3>"
        yield charts.bar_chart(f"{key}-m{number}", f"{meter}, per month", months)
        rows = [(bar.name, f"{bar.quantity:,}", _covered(bar.coverage)) for bar in months]
        yield _table(("Month", "Quantity", "Weakest coverage"), rows, numbers=(1,))
        days = _days(one, meter)
        if len(days) > 1:
            newest = f" (the newest {MAX_DAYS})" if len(days) == MAX_DAYS else ""
            yield f"<h3>Per day{newest}: {text(meter)}</h3>"
            yield charts.bar_chart(f"{key}-d{number}", f"{meter}, per day", days)
            rows = [(bar.name, f"{bar.quantity:,}", _covered(bar.coverage)) for bar in days if bar.quantity]
            yield (
                f"<details><summary>Table of the {len(rows):,} days with use</summary>"
                f"{_table(('Day', 'Quantity', 'Weakest coverage'), rows, numbers=(1,), most=MAX_DAYS)}</details>"
            )
    if len(one.meters) > MAX_METERS:
        yield f'<p class="quiet">{len(one.meters) - MAX_METERS:,} more meters are not shown.</p>'


def _months(one: InstanceReport, meter: str) -> list[Bar]:
    """All months from the first to the last with use; every one of them where that is not too many."""
    used = {name: sums.get(meter, 0) for name, sums in one.months.items()}
    names = _between(sorted(used), "%Y-%m") or sorted(used)
    names = names[-MAX_DAYS:]
    every = -(-len(names) // 12)
    return [
        Bar(name, name if number % every == 0 else "", used.get(name, 0), one.coverage.get(name))
        for number, name in enumerate(names)
    ]


def _days(one: InstanceReport, meter: str) -> list[Bar]:
    used = {name: sums.get(meter, 0) for name, sums in one.days.items()}
    names = (_between(sorted(used), "%Y-%m-%d") or sorted(used))[-MAX_DAYS:]
    every = -(-len(names) // 8)
    return [
        Bar(name, name if number % every == 0 else "", used.get(name, 0), one.coverage.get(name))
        for number, name in enumerate(names)
    ]


def _between(names: Sequence[str], form: str) -> list[str]:
    """All periods from the first to the last, those without use too; empty when that cannot be told."""
    try:
        first, last = (datetime.strptime(name, form).replace(tzinfo=UTC).date() for name in (names[0], names[-1]))
    except (IndexError, ValueError):
        return []
    if (last - first).days > 40 * MAX_DAYS:
        return []
    found: dict[str, None] = {}
    at: date = first
    while at <= last:
        found[at.strftime(form)] = None
        if at == date.max:
            break
        at += timedelta(days=1)
    return list(found)


def _time(one: InstanceReport, key: str) -> Iterator[str]:
    if one.first_ms is None or one.last_ms is None:
        return
    yield "<h3>Windows, stops and licences over time</h3>"
    from_ms = min([one.first_ms, *(part.from_ms for part in one.covered)])
    until_ms = max([one.last_ms, *(part.until_ms for part in one.covered)])
    gaps = [
        Stretch(before.until_ms, after.from_ms, "t-gap", f"no window: {_span(before.until_ms, after.from_ms)}")
        for before, after in zip(one.covered, one.covered[1:], strict=False)
        if after.from_ms > before.until_ms
    ]
    windows = [
        Stretch(
            part.from_ms,
            part.until_ms,
            "t-window",
            f"{counted(part.windows, 'window', 'windows')}: {_span(part.from_ms, part.until_ms)}",
            counted(part.windows, "window", "windows"),
        )
        for part in one.covered
    ]
    stops = [
        Stretch(start.since_ms, start.at_ms, "t-stop" if start.in_good_order else "t-crash", _stop_words(start))
        for start in one.starts
        if start.since_ms is not None and start.stopped_ms
    ]
    terms = [
        Stretch(
            term.from_ms,
            max(term.until_ms, term.from_ms),
            "t-evaluation" if term.evaluation else "t-licence",
            f"licence {term.license_id}, sequence {term.sequence}: {_span(term.from_ms, term.until_ms)}",
            f"{term.license_id} #{term.sequence}",
        )
        for term in one.terms
    ]
    told = (
        f"{one.windows:,} windows, {len(gaps)} gaps between them, {one.starts_in_all:,} starts, {len(one.terms)} "
        "licences in force one after the other. The tables have each."
    )
    rows = [Row("Windows", [*windows, *gaps]), Row("Not running", stops), Row("Licences", terms)]
    yield charts.timeline(
        f"{key}-time", "Windows, stops and licences", told, from_ms=from_ms, until_ms=until_ms, rows=rows
    )
    yield _gap_table(one, gaps)
    yield _stop_table(one)
    yield _term_table(one.terms)


def _gap_table(one: InstanceReport, gaps: Sequence[Stretch]) -> str:
    covered = duration_text(sum(part.until_ms - part.from_ms for part in one.covered))
    words = f"<p>{counted(one.windows, 'window covers', 'windows cover')} {covered}; "
    if not gaps:
        return f"{words}there is no gap between them.</p>"
    rows = [(_at(gap.from_ms), _at(gap.until_ms), _one(duration_text(gap.until_ms - gap.from_ms))) for gap in gaps]
    return f"{words}{counted(len(gaps), 'gap is', 'gaps are')} between them:</p>" + _table(
        ("No window from (UTC)", "to", "How long"), rows
    )


def _stop_table(one: InstanceReport) -> str:
    stops = sorted((start for start in one.starts if start.stopped_ms), key=lambda start: -start.stopped_ms)
    if not one.starts_in_all:
        return "<p>No start of the meter is told here.</p>"
    words = f"<p>The meter started {counted(one.starts_in_all, 'time', 'times')}"
    if not stops:
        return f"{words}.</p>"
    words += f"; before that it did not run for {duration_text(one.stopped_ms)} in all.</p>"
    rows = [
        (
            "" if start.since_ms is None else _at(start.since_ms),
            _at(start.at_ms),
            _one(duration_text(start.stopped_ms)),
            "stopped in good order" if start.in_good_order else "crash, kill or power cut: at most so long",
        )
        for start in sorted(stops[:MAX_STOPS], key=lambda start: start.seq)
    ]
    longest = f"<p>The longest {MAX_STOPS}:</p>" if len(stops) > MAX_STOPS else ""
    return words + longest + _table(("Not running from (UTC)", "to", "How long", "How it stopped"), rows)


def _term_table(terms: Sequence[LicenseTerm]) -> str:
    if not terms:
        return "<p>No licence was in force.</p>"
    rows = [
        (
            f"<code>{text(term.license_id)}</code><br>sequence {term.sequence:,}"
            + (", evaluation" if term.evaluation else ""),
            _at(term.from_ms),
            _at(term.until_ms),
            "not told" if term.expires_at is None else _at(term.expires_at * 1000),
            "<br>".join(f"{sums:,} {text(meter)}" for meter, sums in sorted(term.meters.items())[:MAX_METERS]) or "0",
        )
        for term in terms[-MAX_ROWS:]
    ]
    head = ("Licence in force", "From (UTC)", "Last entry under it", "Expires", "Used under it")
    return _table(head, rows, wide=4)


def _legend(report: Report) -> str:
    found = {part.coverage for one in report.instances for part in one.ranges}
    rows = "".join(
        f"<li>{_swatch(coverage)} <strong>{coverage.value}</strong>: {COVERAGE_WORDS[coverage]}</li>"
        for coverage in Coverage
        if coverage in found
    )
    return f'<section><h2>Words</h2><ul class="plain">{rows}</ul></section>' if rows else ""


def _swatch(coverage: Coverage) -> str:
    return (
        '<svg class="swatch" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">'
        f'<rect width="14" height="14" fill="url(#p-{coverage.value})" class="range"/></svg>'
    )


def _covered(coverage: Coverage | None) -> str:
    return "no entries" if coverage is None else f"{_swatch(coverage)} {coverage.value}"


def _stop_words(start: Start) -> str:
    how = "stopped in good order" if start.in_good_order else "crash, kill or power cut, at most so long"
    return f"not running ({how}): {_span(start.since_ms or start.at_ms, start.at_ms)}"


def _at(milliseconds: int) -> str:
    """An instant as markup, for tables: without the day's name, and in one line."""
    return _one(moment_text(milliseconds).partition("day ")[2].removesuffix(" UTC") or moment_text(milliseconds))


def _one(value: str) -> str:
    return f'<span class="one">{text(value)}</span>'


def _span(from_ms: int, until_ms: int) -> str:
    return f"{moment_text(from_ms)} to {moment_text(until_ms)}, {duration_text(until_ms - from_ms)}"


def _table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[int] = (),
    wide: int | None = None,
    most: int = MAX_ROWS,
) -> str:
    """A table; the cells are markup already."""
    kinds = ["num" if column in numbers else "wide" if column == wide else "" for column in range(len(head))]
    marks = [f' class="{kind}"' if kind else "" for kind in kinds]
    top = "".join(f'<th scope="col"{mark}>{name}</th>' for name, mark in zip(head, marks, strict=True))
    listed = list(rows)
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{cell}</td>" for cell, mark in zip(row, marks, strict=True)) + "</tr>"
        for row in listed[:most]
    )
    more = f'<p class="quiet">{len(listed) - most:,} more rows are not shown.</p>' if len(listed) > most else ""
    width = "" if wide is not None else ' class="narrow"'
    return f'<div class="scroll"><table{width}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>{more}'
