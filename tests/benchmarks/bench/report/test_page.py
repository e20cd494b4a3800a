"""The report in a real browser, where one is installed: on a phone, on a desk, in the dark and on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench.report.against import compare_runs
from benchmarks.bench.report.schema import parse_results
from benchmarks.bench.report.write import write_report
from tests.benchmarks.bench.factory import make_results, remote
from tests.chromium import CHROMIUM, Chromium

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report with all there is: three students, one of them a server's, hostile texts, and changes."""
    old, new = parse_results(make_results(3)), parse_results(remote(make_results(3, slower=1.2), "student-3"))
    return write_report(new, tmp_path_factory.mktemp("report"), compare_runs(old, new)).as_uri()


@pytest.fixture(autouse=True)
def _complains_of_nothing(browser: Chromium, page: str) -> Iterator[None]:
    browser.errors.clear()
    browser.requested.clear()
    yield
    assert browser.errors == []
    assert set(browser.requested) == {page}


def _share(browser: Chromium, selector: str, attribute: str) -> float:
    """How bright a colour of an element is, from 0 to 1."""
    channels = browser.evaluate(
        f"getComputedStyle(document.querySelector('{selector}')).{attribute}.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    )
    return float(sum(channels)) / (3 * 255)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "phone"), [(390, True), (1280, False)], ids=["phone", "desk"])
def test_the_page_fits_and_follows_the_scheme(
    browser: Chromium, page: str, tmp_path: Path, width: int, phone: bool, scheme: str
) -> None:
    browser.resize(width, 844, phone=phone)
    browser.prefer(prefers_color_scheme=scheme)
    browser.open(page)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate("document.title") == "student, student-2, student-3 against teacher"
    for selector in ("body", "section", ".chart .tick"):
        ink = "fill" if "chart" in selector else "color"
        assert (_share(browser, selector, ink) > 0.5) == (scheme == "dark"), selector
    assert (_share(browser, "body", "backgroundColor") > 0.5) == (scheme == "light")
    # What is wider than the window scrolls by itself, and letters in charts are no smaller than 9 px.
    assert browser.evaluate(
        "[...document.querySelectorAll('section *')].every(each => each.closest('.scroll') || each.closest('svg')"
        " || each.getBoundingClientRect().right <= innerWidth)"
    )
    assert (
        browser.evaluate("Math.min(...[...document.querySelectorAll('svg')].map(svg => svg.clientWidth / 360))") > 0.9
    )
    shot = tmp_path / "page.png"
    browser.screenshot(shot)
    assert shot.stat().st_size > 50_000


def test_the_verdict_comes_first_and_the_texts_open_at_a_press(browser: Chromium, page: str) -> None:
    browser.resize(1280, 900)
    browser.open(page)
    assert browser.evaluate("document.querySelector('main').firstElementChild.className") == "verdict"
    closed = "[...document.querySelectorAll('details:not([open])')]"
    assert browser.evaluate(f"{closed}.length") > 0
    browser.evaluate(f"(window.pressed = {closed}[0]).querySelector('summary').focus()")
    browser.press("Enter")
    browser.wait("pressed.open && pressed.querySelector('table').getBoundingClientRect().height > 20")


def test_texts_do_not_run(browser: Chromium, page: str) -> None:
    browser.open(page)
    assert browser.evaluate("document.querySelectorAll('section script, section img').length") == 0
    assert browser.evaluate("document.title") != "taken"
    assert browser.evaluate("document.body.innerText.includes(\"<script>document.title = 'taken'</script>\")")


def test_it_prints_in_black_on_white_even_in_the_dark(browser: Chromium, page: str) -> None:
    browser.prefer(prefers_color_scheme="dark")
    browser.open(page)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.send("Emulation.setEmulatedMedia", media="print", features=dark)
    assert _share(browser, "section", "color") < 0.5
    assert _share(browser, ".chart .tick", "fill") < 0.5
    printed = base64.b64decode(browser.send("Page.printToPDF")["data"])
    browser.send("Emulation.setEmulatedMedia", media="")
    assert printed.startswith(b"%PDF")
    assert 5 <= printed.count(b"/Type /Page\n") <= 25
