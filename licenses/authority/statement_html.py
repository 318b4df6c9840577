"""A statement as one page that needs nothing else: for a screen, light or dark, and for paper.

Invariant: whatever a customer, a tier or a device is named, the page shows it as text.
"""

import html
from collections.abc import Iterator
from datetime import UTC, datetime

from licenses.authority.statements import Statement, StatementDevice, StatementLine
from licenses.usage_log.report import printable


def to_html(one: Statement) -> str:
    """The statement as one page that needs nothing else: for a screen, light or dark, and for paper."""
    title = f"Statement for {one.month_name}, {one.customer.name}"
    body = "\n".join(_body(one))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _body(one: Statement) -> Iterator[str]:
    yield (
        f'<header><p class="kicker">Statement of usage</p><h1>{_text(one.customer.name)}</h1>'
        f'<p class="month">{_text(one.month_name)}</p></header>\n<main>'
    )
    if one.evaluation:
        yield (
            '<p class="evaluation"><strong>Evaluation.</strong> The keys of the vendor are for evaluation: this is no '
            "basis for an invoice.</p>"
        )
    if not one.lines:
        yield "<p>There was no subscription in this month.</p>"
    for line in one.lines:
        yield _section(line)
    if one.devices:
        yield _device_table(one)
    yield "</main>"
    up_to = "nothing, for no use has arrived" if one.up_to is None else f"use that arrived up to {_moment(one.up_to)}"
    yield (
        f"<footer><p>Customer <code>{_text(one.customer.id)}</code>. Months are UTC. This statement counts {up_to}, "
        f"and closes on {_moment(one.closes_at)}: what arrives after that for this month is in a later one, as arrived "
        "since, for earlier months. Nothing is ever counted twice.</p></footer>"
    )


def _section(line: StatementLine) -> str:
    overage = ""
    if line.overage:
        words = "billed as agreed" if line.overage_agreed else "not agreed in this tier"
        overage = f'<p class="over"><strong>{line.overage:,}</strong> beyond the commitment, {words}</p>'
    rows = [("Used in the month", f"{line.used:,}")]
    if line.unproved:
        rows.append(("of it told by containers without a ledger, unproved", f"{line.unproved:,}"))
    if line.period:
        rows += [
            (f"Commitment for {line.period}", f"{line.commitment:,}"),
            (f"Used in {line.period} so far", f"{line.used_in_period:,}"),
            ("Left of the commitment", f"{max(0, line.commitment - line.used_in_period):,}"),
        ]
    rows.append(("Beyond the commitment, in this month", f"{line.overage:,}"))
    if line.late_from:
        rows += [
            (f"Arrived since, for earlier months, from {line.late_from} on", _signed(line.late)),
            ("Beyond the commitment, by what arrived since", _signed(line.late_overage)),
        ]
    rows.append(("Year to date", f"{line.year_to_date:,}"))
    cells = "".join(f'<tr><th scope="row">{_text(name)}</th><td class="num">{value}</td></tr>' for name, value in rows)
    tier = f"tier <code>{_text(line.tier)}</code>" if line.period else "without a commitment"
    return (
        f'<section><p class="kicker"><code>{_text(line.subscription_id)}</code> · {_text(line.container_type)} · '
        f'{tier}</p><h2>{_text(line.meter)}</h2><p class="used"><strong>{line.used:,}</strong> units</p>{overage}'
        f"{_gauge(line)}<table>{cells}</table></section>"
    )


def _gauge(line: StatementLine) -> str:
    """How much of the commitment is used: before this month, in it, and beyond."""
    if not line.period or not max(line.commitment, line.used_in_period):
        return ""
    whole = max(line.commitment, line.used_in_period)
    before = line.used_in_period - line.used
    inside = min(line.used_in_period, line.commitment)
    marks = (0, min(before, inside), inside, line.used_in_period)
    at = [mark * 1000 // whole for mark in marks]
    bars = "".join(
        f'<rect class="{name}" x="{begins}" width="{max(0, ends - begins)}" height="26"/>'
        for name, begins, ends in zip(("before", "now", "beyond"), at, at[1:], strict=False)
    )
    limit = line.commitment * 1000 // whole
    share = f"{100 * line.used_in_period // line.commitment} %" if line.commitment else "no commitment"
    label = f"{line.used_in_period:,} of {line.commitment:,} used in {line.period}"
    return (
        f'<figure><svg viewBox="0 0 1000 26" preserveAspectRatio="none" role="img" aria-label="{_text(label)}">'
        f'<rect class="track" width="1000" height="26"/>{bars}'
        f'<path class="limit" d="M{min(limit, 998)} 0V26"/></svg>'
        f'<figcaption><span class="key before"></span>before · <span class="key now"></span>this month · '
        f'<span class="key beyond"></span>beyond the commitment<span class="share">{share}</span></figcaption></figure>'
    )


def _device_table(one: Statement) -> str:
    rows = "".join(
        f'<tr><th scope="row">{_device(device)}</th><td>{_text(device.meter)}</td>'
        f'<td class="num">{device.used:,}</td><td class="num">{_signed(device.corrected)}</td>'
        f'<td class="num">{_signed(device.late)}</td></tr>'
        for device in one.devices
    )
    return (
        '<section><h2>By device</h2><div class="scroll"><table class="devices"><thead><tr><th>Log</th><th>Meter</th>'
        '<th class="num">Used in the month</th><th class="num">Of it corrected by records</th>'
        '<th class="num">Arrived since, for earlier months</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _device(device: StatementDevice) -> str:
    return f"<code>{_text(device.origin)}</code>" if device.origin else "containers without a ledger, unproved"


def _signed(quantity: int) -> str:
    return f"{quantity:+,}" if quantity else "0"


def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _text(words: str) -> str:
    return html.escape(printable(words))


_STYLE = """:root{color-scheme:light dark;--paper:#fff;--panel:#f5f6f8;--ink:#1c2129;--quiet:#5a6472;--line:#d8dde4;
--before:#9db7d6;--now:#2b5f9e;--beyond:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#14171c;--panel:#1d2128;--ink:#e6e9ee;--quiet:#a0a9b6;--line:#39404a;
--before:#3c5879;--now:#86b4ec;--beyond:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:52rem;padding:2.5rem 1.5rem 3rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans","DejaVu Sans",sans-serif}
code{font:0.92em ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono","DejaVu Sans Mono",monospace;
overflow-wrap:anywhere}
header{border-bottom:3px solid var(--ink);padding-bottom:1rem;margin-bottom:1.5rem}
h1{font-size:1.7rem;line-height:1.2;margin:.1rem 0 0;overflow-wrap:anywhere}
.month{font-size:1.15rem;margin:.2rem 0 0;color:var(--quiet)}
h2{font-size:1.1rem;margin:.1rem 0 .4rem;overflow-wrap:anywhere}
.kicker{margin:0;color:var(--quiet);font-size:.85rem}
section{padding:1.2rem 0;border-bottom:1px solid var(--line)}
.evaluation{margin:1rem 0;padding:.7rem 1rem;border:2px dashed var(--now);border-radius:6px}
.used{margin:.2rem 0;color:var(--quiet)}
.used strong{font-size:2.2rem;line-height:1.1;color:var(--ink);font-variant-numeric:tabular-nums}
.over{margin:.2rem 0;color:var(--beyond)}
figure{margin:.9rem 0}
svg{display:block;width:100%;height:1.4rem;border-radius:4px}
.track{fill:var(--line)}
rect.before{fill:var(--before)}rect.now{fill:var(--now)}rect.beyond{fill:var(--beyond)}
.limit{stroke:var(--ink);stroke-width:2;vector-effect:non-scaling-stroke}
figcaption{display:flow-root;margin-top:.35rem;color:var(--quiet);font-size:.85rem}
.key{display:inline-block;width:.75rem;height:.75rem;margin:0 .3rem 0 0;border-radius:2px;vertical-align:-1px}
.key.before{background:var(--before)}.key.now{background:var(--now)}.key.beyond{background:var(--beyond)}
.share{float:right;font-weight:600;color:var(--ink)}
table{border-collapse:collapse;width:100%;margin:.6rem 0 0;font-size:.92rem}
th,td{padding:.38rem .7rem .38rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;
font-weight:400;overflow-wrap:anywhere}
thead th{color:var(--quiet);font-weight:600;border-bottom:1.5px solid var(--quiet)}
.num{text-align:right;font-variant-numeric:tabular-nums;padding-right:0;white-space:nowrap}
thead .num{white-space:normal}
.scroll{overflow-x:auto}
.devices .num{padding-left:.7rem}
.devices thead th{overflow-wrap:normal}
tr:last-child td,tr:last-child th{border-bottom:0}
footer{margin-top:1.5rem;color:var(--quiet);font-size:.85rem}
@media screen{.devices{min-width:42rem}}
@media screen and (max-width:40rem){body{padding:1.5rem 1rem 2rem}}
@media print{@page{size:A4;margin:18mm 16mm}
:root{color-scheme:light;--paper:#fff;--panel:#f5f6f8;--ink:#1c2129;--quiet:#4d5663;--line:#cfd5dc;
--before:#9db7d6;--now:#2b5f9e;--beyond:#b3261e}
body{max-width:none;padding:0;font-size:10.5pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}
section,tr,figure{break-inside:avoid}
h2{break-after:avoid}
thead{display:table-header-group}
.scroll{overflow:visible}}
"""
