"""How the report's page looks: one style sheet for light, dark and paper, and a mark of its own shape per verdict."""

from collections.abc import Mapping

from licenses.usage_log.report import Verdict

STYLE = """:root{color-scheme:light dark;--paper:#fff;--panel:#f5f6f8;--ink:#1c2129;--quiet:#5a6472;--line:#d8dde4;
--good:#1b7a4a;--good-soft:#e7f4ec;--warn:#8a5a00;--warn-soft:#fdf3dc;--bad:#b3261e;--bad-soft:#fcebe9;
--info:#2b5f9e;--info-soft:#e8f0fa;--acked:#14643b;--sealed:#3f9a68;--unpinned:#5b8bc5;--unsealed:#d69a2d;
--pruned:#c9cfd7;--missing:#fff;--damaged:#b3261e}
@media (prefers-color-scheme:dark){:root{--paper:#14171c;--panel:#1d2128;--ink:#e6e9ee;--quiet:#a0a9b6;--line:#39404a;
--good:#5cc48d;--good-soft:#14291e;--warn:#e7b04a;--warn-soft:#2d2410;--bad:#ff8a80;--bad-soft:#341917;
--info:#86b4ec;--info-soft:#17263a;--acked:#2f9a62;--sealed:#4fb583;--unpinned:#5f93d3;--unsealed:#c78f2a;
--pruned:#59626e;--missing:#14171c;--damaged:#d3453b}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:62rem;padding:2rem 1.5rem 3rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans","DejaVu Sans",sans-serif;
overflow-wrap:break-word}
code{font:0.92em ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono","DejaVu Sans Mono",monospace;
overflow-wrap:anywhere}
h1{font-size:1.45rem;line-height:1.25;margin:0 0 1.2rem;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:2.4rem 0 .7rem;padding-bottom:.3rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1.8rem 0 .6rem}
p{margin:.4rem 0}
.kicker{margin:0;color:var(--quiet);font-size:.85rem}
.quiet{color:var(--quiet);font-size:.88rem}
.verdict{display:flex;gap:1.2rem;align-items:flex-start;padding:1.2rem 1.4rem;border:1px solid var(--line);
border-left:6px solid var(--mark);background:var(--soft);border-radius:6px}
.verdict svg{flex:none;width:60px;height:60px;color:var(--mark)}
.verdict>div{min-width:0;overflow-wrap:anywhere}
.verdict p{margin:.15rem 0}
.verdict .word{font-size:1.7rem;font-weight:700;line-height:1.1;color:var(--mark);letter-spacing:.01em}
.verdict .total{margin-top:.6rem}
.verdict .total strong{font-size:1.35rem}
.v-good{--mark:var(--good);--soft:var(--good-soft)}
.v-unpinned,.v-unsealed,.v-unanchored{--mark:var(--warn);--soft:var(--warn-soft)}
.v-gaps{--mark:var(--warn);--soft:var(--warn-soft)}
.v-unreadable,.v-tampered{--mark:var(--bad);--soft:var(--bad-soft)}
.chip{display:inline-block;margin-left:.4rem;padding:.05rem .55rem;border:1.5px solid var(--mark);border-radius:1rem;
color:var(--mark);background:var(--soft);font-size:.8rem;font-weight:600;text-transform:uppercase;vertical-align:2px}
.evaluation{margin:1rem 0;padding:.7rem 1rem;border:2px dashed var(--info);
background:var(--info-soft);border-radius:6px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;margin:.5rem 0 .4rem;font-size:.9rem}
th,td{padding:.36rem .7rem .36rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
thead th{color:var(--quiet);font-weight:600;border-bottom:1.5px solid var(--quiet);white-space:nowrap}
.facts th{width:11.5rem;color:var(--quiet);font-weight:600}
.facts td{overflow-wrap:anywhere}
.num{text-align:right;font-variant-numeric:tabular-nums;padding-right:1.4rem}
.narrow{width:auto;min-width:min(30rem,100%)}
.wide{min-width:13rem;overflow-wrap:anywhere}
.one{white-space:nowrap}
.where{display:inline-block;min-width:11rem}
.plain{list-style:none;margin:0;padding:0}
.plain li{margin:.15rem 0}
.severity{display:inline-block;padding:0 .5rem;border:1.5px solid var(--mark);border-radius:4px;color:var(--mark);
background:var(--soft);font-size:.82rem;font-weight:600;white-space:nowrap}
.s-tampered,.s-unreadable{--mark:var(--bad);--soft:var(--bad-soft)}
.s-tampered{border-width:2.5px}
.s-gap{--mark:var(--warn);--soft:var(--warn-soft)}
.s-note{--mark:var(--info);--soft:var(--info-soft)}
details{margin:.4rem 0}
summary{cursor:pointer;color:var(--info)}
footer{margin-top:2.5rem;padding-top:.6rem;border-top:1px solid var(--line);color:var(--quiet);font-size:.85rem}
.defs{position:absolute}
.chart{display:block;width:100%;height:auto;margin:.4rem 0 .6rem;overflow:visible}
.swatch{vertical-align:-2px}
.grid{stroke:var(--line);stroke-width:1;fill:none}
.axis{stroke:var(--quiet);stroke-width:1.2;fill:none}
.tick,.name,.value,.in,.on{font-size:10.5px;fill:var(--quiet)}
.name{font-size:11.5px;fill:var(--ink)}
.value{fill:var(--ink);text-anchor:middle}
.end{text-anchor:end}
.mid{text-anchor:middle}
.on{text-anchor:middle;font-weight:700;fill:#fff;letter-spacing:.04em;paint-order:stroke;stroke:rgba(0,0,0,.45);
stroke-width:2.5px;stroke-linejoin:round}
.in{fill:#fff}
.range,.bar{stroke:var(--quiet);stroke-width:.6}
.thin{stroke:none}
.f-acked{fill:var(--acked)}.f-sealed{fill:var(--sealed)}.f-unpinned{fill:var(--unpinned)}
.f-unsealed{fill:var(--unsealed)}.f-pruned{fill:var(--pruned)}.f-missing{fill:var(--missing)}
.f-damaged{fill:var(--damaged)}
.l-paper{stroke:var(--paper);stroke-width:1.3;fill:none}
.l-bad{stroke:var(--bad);stroke-width:1.3;fill:none}
.d-ink{fill:var(--ink)}
.t-window{fill:#3d7f5f}
.t-gap{fill:url(#p-missing);stroke:var(--bad);stroke-width:1}
.t-stop{fill:var(--pruned)}
.t-crash{fill:url(#p-pruned);stroke:var(--quiet);stroke-width:.6}
.t-licence{fill:#41699b;stroke:var(--paper);stroke-width:1}
.t-evaluation{fill:#7a5aa6;stroke:var(--paper);stroke-width:1}
@media screen and (max-width:40rem){body{padding:1.2rem 1rem 2rem}
.verdict{flex-direction:column;gap:.8rem;padding:1rem}
.facts,.facts tbody,.facts tr,.facts th,.facts td{display:block;width:auto}
.facts th{padding-bottom:0;border-bottom:0}
.facts td{padding-top:0}
.chart{min-width:38rem}}
@media print{@page{size:A4;margin:16mm 14mm}
:root{color-scheme:light;--paper:#fff;--panel:#f5f6f8;--ink:#1c2129;--quiet:#4d5663;--line:#cfd5dc;
--good:#1b7a4a;--good-soft:#fff;--warn:#8a5a00;--warn-soft:#fff;--bad:#b3261e;--bad-soft:#fff;--info:#2b5f9e;
--info-soft:#fff;--acked:#14643b;--sealed:#3f9a68;--unpinned:#5b8bc5;--unsealed:#d69a2d;--pruned:#c9cfd7;
--missing:#fff;--damaged:#b3261e}
body{max-width:none;padding:0;font-size:10pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}
h2,h3{break-after:avoid}
.verdict,.chart,tr,.evaluation{break-inside:avoid}
thead{display:table-header-group}
.scroll{overflow:visible}}
"""


def _mark(title: str, shape: str) -> str:
    return f'<svg viewBox="0 0 48 48" role="img" aria-label="{title}"><title>{title}</title>{shape}</svg>'


_DISC = '<circle cx="24" cy="24" r="21" fill="currentColor"/>'
_TRIANGLE = (
    '<path d="M24 4L46 43H2Z" fill="currentColor" stroke="currentColor" stroke-width="3" stroke-linejoin="round"/>'
)
_OCTAGON = '<path d="M15 3H33L45 15V33L33 45H15L3 33V15Z" fill="currentColor"/>'
_LINES = 'fill="none" stroke="var(--paper)" stroke-width="5" stroke-linecap="round" stroke-linejoin="round"'
_CALL = f'<path d="M24 18V29" {_LINES}/><circle cx="24" cy="36.5" r="2.8" fill="var(--paper)"/>'

VERDICT_MARKS: Mapping[Verdict, str] = {
    Verdict.GOOD: _mark("Good", f'{_DISC}<path d="M14 25L21 32L34 17" {_LINES}/>'),
    Verdict.UNPINNED: _mark("Not pinned", _TRIANGLE + _CALL),
    Verdict.UNSEALED: _mark("Not sealed", _TRIANGLE + _CALL),
    Verdict.UNANCHORED: _mark("Not anchored", _TRIANGLE + _CALL),
    Verdict.GAPS: _mark(
        "Gaps",
        '<path d="M3 12H19V36H3ZM29 12H45V36H29Z" fill="currentColor"/>'
        '<path d="M24 8V40" fill="none" stroke="currentColor" stroke-width="2.5" stroke-dasharray="4 4"/>',
    ),
    Verdict.UNREADABLE: _mark(
        "Unreadable",
        '<path d="M8 3H32L41 12V45H8Z" fill="none" stroke="currentColor" stroke-width="4" stroke-linejoin="round"/>'
        '<path d="M18 20L31 33M31 20L18 33" fill="none" stroke="currentColor" stroke-width="4"/>',
    ),
    Verdict.TAMPERED: _mark("Tampered", f'{_OCTAGON}<path d="M16 16L32 32M32 16L16 32" {_LINES}/>'),
}
