"""The page in a real browser: by clicking, by keyboard, on a narrow screen, in the dark, on paper, without scripts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from saved_runs import HOSTILE, cells, operations, sampled, save, steps

from harness import runner
from harness.report.page import page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FAILING = "in=gpu:0,model=cpu,out=gpu:0,datatype=bytes,backend=native"
REPRODUCER = f"tritoncapi-harness matrix --only {FAILING}"
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium here (Debian: apt-get install chromium), nor $CHROMIUM"),
    # The driver's own event loop ends after pytest looks for what was left open.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CONTRAST = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (at) => {
    for (; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const at of document.querySelectorAll("body *")) {
    const own = [...at.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !at.checkVisibility() || ["SCRIPT", "STYLE"].includes(at.tagName)) continue;
    const style = getComputedStyle(at);
    const colour = parse(at.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const [one, two] = [light(colour), light(ground(at))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    if (ratio < 4.5) bad.push(`${at.tagName}.${at.className} ${at.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return bad;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    why = "playwright is not installed: pip install -e '.[browser]'"
    driver = pytest.importorskip("playwright.sync_api", reason=why)
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    cell_events = [*cells(HOSTILE), {"cell": HOSTILE, "outcome": "fail", "axes": {"out": HOSTILE}, "evidence": HOSTILE}]
    matrix = save(folder / "matrix", cell_events, checks=[["cells", "fail", "2 cells failed", {"log": HOSTILE}]])
    events = [*operations(30, bad=[4]), *steps()]
    more = {"log": [HOSTILE, "E1 " + "long " * 200], "stacks": "a stack " * 80}
    perf = save(folder / "perf", events, sampled(60), more, name="perf", budgets={"descriptors": 0.02})
    path = folder / "report.html"
    path.write_text(page([runner.judge(matrix), runner.judge(perf)]))
    return path.as_uri()


def opened(browser: Browser, file: str, **settings: Any) -> Page:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
    made = context.new_page()
    made.set_default_timeout(10_000)
    problems: list[str] = []
    made.on("console", lambda message: problems.append(message.text))
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("request", lambda request: problems.append(request.url) if request.url != file else None)
    made.goto(file)
    assert problems == []  # nothing was asked of the network, nothing went wrong, nothing hostile ran
    assert made.title() == "FAIL: 2 runs - tritoncapi-harness"
    return made


def test_the_failing_cell_and_its_reproducer_are_two_clicks_away(browser: Browser, file: str) -> None:
    made = opened(browser, file)
    reproducer = made.get_by_text(REPRODUCER, exact=True)
    assert not reproducer.is_visible()
    made.get_by_role("link", name="matrix", exact=True).click()  # the run in the overview
    made.get_by_role("link", name=f"fail {FAILING}").click()
    assert reproducer.is_visible()
    assert "OUTPUT0: 16 of 16 values are wrong" in made.locator("article.cell:focus").inner_text()
    box = reproducer.bounding_box()
    assert box is not None
    assert 0 < box["y"] < 900  # in view


def test_the_heat_map_leads_there_too(browser: Browser, file: str) -> None:
    made = opened(browser, file)
    made.locator("td.spot.fail a").first.click()
    assert made.get_by_text(REPRODUCER, exact=True).is_visible()
    assert made.locator("details.spotlist[open]").count() == 1


def test_filters(browser: Browser, file: str) -> None:
    made = opened(browser, file)
    assert made.get_by_role("status").inner_text() == "145 of 145 cells"
    labels = (made.locator(".filters label", has_text=name) for name in ("datatype", "outcome"))
    datatype, outcome = (label.locator("select") for label in labels)
    datatype.select_option("int32")
    assert made.get_by_role("status").inner_text() == "48 of 145 cells"
    assert made.locator("td.spot.fail").count() == 0
    datatype.select_option("bytes")
    outcome.select_option("fail")
    assert made.get_by_role("status").inner_text() == "1 of 145 cells"
    assert made.locator("td.spot.fail").inner_text().split() == ["1", "fail", "of", "1"]


def test_copy_button_copies(browser: Browser, file: str) -> None:
    made = opened(browser, file, permissions=["clipboard-read", "clipboard-write"])
    button = made.locator("button.copy").first
    button.click()
    made.wait_for_function("document.querySelector('button.copy').textContent === 'Copied'")
    assert made.evaluate("navigator.clipboard.readText()") == "tritoncapi-harness matrix -q"


def test_by_keyboard_alone_with_the_focus_in_sight(browser: Browser, file: str) -> None:
    made = opened(browser, file)
    made.keyboard.press("Tab")
    assert made.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(40):
        made.keyboard.press("Tab")
        name, width = made.evaluate(
            "(at => [at.textContent.trim(), getComputedStyle(at).outlineWidth])(document.activeElement)"
        )
        assert width == "3px", name
        seen.add(name)
        if name == f"fail {FAILING}":
            break
    assert f"fail {FAILING}" in seen
    made.keyboard.press("Enter")
    assert made.get_by_text(REPRODUCER, exact=True).is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_contrast_and_width(browser: Browser, file: str, width: int, scheme: str) -> None:
    made = opened(browser, file, viewport={"width": width, "height": 900}, color_scheme=scheme)
    made.evaluate("for (const at of document.querySelectorAll('details')) at.open = true")
    assert made.evaluate("document.documentElement.scrollWidth") == width  # no scrolling sideways
    assert made.evaluate(CONTRAST) == []
    grey = 150 if scheme == "light" else 90
    made.evaluate(f"document.querySelector('.sentence').style.color = 'rgb({grey}, {grey}, {grey})'")
    assert len(made.evaluate(CONTRAST)) == 1  # it is seen
    dark = made.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(255, 255, 255)") == (scheme == "light")


def test_without_scripts_all_is_readable(browser: Browser, file: str) -> None:
    made = opened(browser, file, java_script_enabled=False)
    assert made.locator("button:visible, .filters:visible").count() == 0
    made.get_by_role("link", name=f"fail {FAILING}").click()
    assert made.get_by_text(REPRODUCER, exact=True).is_visible()


def test_on_paper_what_failed_is_unfolded(browser: Browser, file: str) -> None:
    made = opened(browser, file)
    made.emulate_media(media="print", color_scheme="dark")
    made.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert made.get_by_text(REPRODUCER, exact=True).is_visible()
    assert made.locator("button:visible").count() == 0
    assert made.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert made.pdf(format="A4").startswith(b"%PDF")
    made.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not made.get_by_text(REPRODUCER, exact=True).is_visible()
