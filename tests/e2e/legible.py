"""Whether a person can read a page: its contrast, its labels, and that nothing of it lies beyond the window's edge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.e2e.browser import Browser

_HARD_TO_READ = """
const out = [];
const parse = c => c.match(/[\\d.]+/g).map(Number);
const lum = ([r, g, b]) => { const f = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
for (const e of document.querySelectorAll('body *')) {
  const words = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const box = e.getBoundingClientRect();
  if (!words || !box.width || getComputedStyle(e).visibility === 'hidden' || e.closest('.sr, .skip')) continue;
  const a = lum(parse(getComputedStyle(e).color)), b = lum(ground(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) out.push([e.tagName, e.className, e.textContent.trim().slice(0, 30), ratio.toFixed(2)]);
}
for (const e of document.querySelectorAll('input:not([type=hidden]), select, button'))
  if (!(e.labels && e.labels.length) && !e.textContent.trim()) out.push(['no label', e.name]);
for (const e of document.querySelectorAll('[id]'))
  if (document.querySelectorAll('#' + CSS.escape(e.id)).length > 1) out.push(['id twice', e.id]);
for (const e of document.querySelectorAll('tbody tr'))
  if (e.getBoundingClientRect().height > 170) out.push(['a row as tall as a table', e.textContent.trim().slice(0, 30)]);
if (document.documentElement.scrollWidth > innerWidth) out.push(['wider than the window', innerWidth]);
return out;
"""
_TOUCHING = """
const [css, gap] = arguments;
const boxes = [...document.querySelectorAll(css)].map(e => {
  const words = document.createRange(); words.selectNodeContents(e); return words.getBoundingClientRect(); });
return boxes.some((a, n) => boxes.slice(n + 1).some(b =>
  a.left < b.right + gap && b.left < a.right + gap && a.top < b.bottom && b.top < a.bottom));
"""
_BROKEN = """
const found = [], range = document.createRange();
for (const e of document.querySelectorAll(arguments[0])) {
  const texts = document.createTreeWalker(e, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) for (const word of texts.currentNode.data.matchAll(/\\S+/g)) {
    range.setStart(texts.currentNode, word.index); range.setEnd(texts.currentNode, word.index + word[0].length);
    if (new Set([...range.getClientRects()].map(box => Math.round(box.top))).size > 1) found.push(word[0]);
  }
}
return found;
"""


@contextlib.contextmanager
def seen(browser: Browser, width: int, scheme: str = "light") -> Iterator[None]:
    """A window of a width in CSS pixels, of a person who prefers a colour scheme: `light` or `dark`."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def hard_to_read(browser: Browser) -> list[list[object]]:
    """What is paler than 4.5 to 1 (WCAG 2.2, 1.4.3), has no label, is squeezed, or makes the page too wide."""
    return list(browser.driver.execute_script(_HARD_TO_READ))


def is_light(browser: Browser) -> bool:
    """Whether the page's ground is light."""
    ground = browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    return sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) > 380


def touch(browser: Browser, css: str, *, gap: int = 4) -> bool:
    """Whether the words of two elements that match lie over each other, or side by side with less than a gap."""
    return bool(browser.driver.execute_script(_TOUCHING, css, gap))


def broken(browser: Browser, css: str) -> list[str]:
    """Those words of the elements that match that go on in a second line."""
    return list(browser.driver.execute_script(_BROKEN, css))
