"""The page in a real browser, where one is installed, in front of the real server."""

from __future__ import annotations

import json
import shutil
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from common.files import sha256
from demo.messages import DEV
from serve.engine import Engine, Prediction
from tests.chromium import CHROMIUM, Chromium
from tests.conftest import INTENTS, messages
from tests.serve_process import ServerProcess

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

TEXTS = [row["text"] for row in messages(DEV)[:6]]
KEY = "correct-horse-battery-staple"
LONG = "please cancel my order " * 60
ANSWERED = "!pending && document.querySelectorAll('.column:not(.idle) .answer').length"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def paired(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A student and a teacher: on half of `TEXTS` they disagree, and half of `TEXTS` the teacher answers."""
    answers = Engine.load(bundle).classify(TEXTS)
    logits = np.stack([answer.logits for answer in answers if isinstance(answer, Prediction)])
    least = np.median([answer.score for answer in answers if isinstance(answer, Prediction)])
    # What the least likely label lacks, so that for half of the texts it becomes the likeliest.
    shift = np.zeros(len(INTENTS), np.float32)
    last = int(logits.mean(axis=0).argmin())
    shift[last] = np.median(logits.max(axis=1) - logits[:, last])
    teacher = _altered(bundle, tmp_path_factory.mktemp("teacher") / "bundle", shift=shift)
    options = ("--teacher", f"teach={teacher}", "--escalate-below", str(least), "--escalation-budget", "1")
    with ServerProcess(bundle, *options, "--shadow", "1", "--shadow-load", "1", "--max-body", "20000") as server:
        yield server


@pytest.fixture(scope="module")
def keyed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two models without a teacher behind keys, the first too unsure for an answer."""
    directory = tmp_path_factory.mktemp("keyed")
    (directory / "keys").write_text(f"{KEY}\n", encoding="utf-8")
    several = _altered(bundle, directory / "bundle", problem_type="multi_label_classification")
    keys = ("--keys", str(directory / "keys"))
    with ServerProcess(bundle, f"several={several}", *keys, "--abstain-below", "0.45") as server:
        yield server


def _altered(bundle: Path, output: Path, shift: NDArray[np.float32] | None = None, **config: Any) -> Path:
    """A copy of a bundle with other words in its config, and its logits shifted."""
    shutil.copytree(bundle, output)
    if shift is not None:
        model = onnx.load(output / "model.onnx")
        model.graph.initializer.append(onnx.numpy_helper.from_array(shift, "shift"))
        model.graph.node[-1].input.append("shift")  # the head's product has no bias yet
        onnx.save(model, output / "model.onnx")
    settings = {**json.loads((output / "config.json").read_text()), **config}
    (output / "config.json").write_text(json.dumps(settings))
    manifest = json.loads((output / "understudy.json").read_text())
    for name, entry in manifest["files"].items():
        entry.update(sha256=sha256(output / name), bytes=(output / name).stat().st_size)
    (output / "understudy.json").write_text(json.dumps(manifest))
    return output


@pytest.fixture
def page(browser: Chromium, paired: ServerProcess) -> Iterator[Chromium]:
    """The page of student and teacher; it must neither complain nor ask elsewhere."""
    browser.resize(1280, 900)
    _open(browser, paired.url)
    yield browser
    _check(browser, paired.url)


def _open(browser: Chromium, url: str) -> None:
    browser.errors.clear()
    browser.requested.clear()
    browser.open(f"{url}/")


def _check(browser: Chromium, url: str) -> None:
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # The browser's own note of an answer such as 401 is no fault of the page.
    assert not [error for error in browser.errors if not error.startswith("network: Failed to load resource")]
    assert browser.requested
    assert {urllib.parse.urlsplit(each)[:2] for each in browser.requested if not each.startswith("data:")} == {
        urllib.parse.urlsplit(url)[:2]
    }


def _classify(browser: Chromium, text: str, pair: str | None = None) -> list[dict[str, Any]]:
    """The columns' answers: what they say, and their bars as the labels with their shares."""
    browser.evaluate(f"classify(fill({text!r}, {'null' if pair is None else repr(pair)}))")
    return _columns(browser)


def _columns(browser: Chromium) -> list[dict[str, Any]]:
    browser.wait(ANSWERED)
    found: list[dict[str, Any]] = browser.evaluate(
        """columns.map(({ root, status, bars }) => ({
          name: root.getAttribute("aria-label"),
          said: status.innerText.replace(/\\s+/g, " "),
          bars: [...bars.children].map((row) => [row.firstChild.innerText, row.lastChild.innerText]),
          chosen: [...bars.querySelectorAll(".chosen")].map((row) => row.firstChild.innerText),
        }))"""
    )
    return found


def _ask(server: ServerProcess, given: Any, **more: Any) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/v1/classify", json={"inputs": [given], **more})
    output: dict[str, Any] = answer.json()["outputs"][0]
    return output


def _shown(output: dict[str, Any]) -> list[list[str]]:
    return [[entry["label"], f"{entry['score']:.1%}"] for entry in output["scores"]]


def test_student_and_teacher_side_by_side_from_the_keyboard_alone(page: Chromium, paired: ServerProcess) -> None:
    page.wait("model && document.activeElement.id === 'text'")
    page.type(TEXTS[0])
    page.press("Enter", control=True)
    student, teacher = _columns(page)
    assert (student["name"], teacher["name"]) == ("Student", "Teacher")
    for column, options in ((student, {"escalate": False}), (teacher, {"model": "teach"})):
        output = _ask(paired, TEXTS[0], **options)
        assert column["bars"] == _shown(output)
        assert column["chosen"] == [output["label"]]
        assert output["label"] in column["said"]
        assert f"{output['tokens']} tokens · " in column["said"]
        assert column["said"].endswith(" ms")
    bodies = [url for url in page.requested if url.endswith("/v1/classify")]
    assert len(bodies) == 2

    # On to the button, and to the second text's box; what has the focus shows it.
    page.press("Tab")
    assert page.evaluate("document.activeElement.id") == "submit"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Tab")
    page.press(" ")
    page.wait("document.activeElement.id === 'pair'")
    page.type("and <b>now</b>")
    page.press("Tab", shift=True)
    assert page.evaluate("document.activeElement.id") == "text"
    page.press("Tab")
    page.press("Tab")
    page.press("Enter")
    page.wait("$('link').href.includes('text_pair')")
    pair = {"text": TEXTS[0], "text_pair": "and <b>now</b>"}
    assert _columns(page)[0]["bars"] == _shown(_ask(paired, pair, escalate=False))
    link = page.evaluate("$('link').href")
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(link).query) == {key: [value] for key, value in pair.items()}

    # The link gives the same again.
    page.open(link)
    assert _columns(page)[1]["bars"] == _shown(_ask(paired, pair, model="teach"))
    assert page.evaluate("$('pair').value") == "and <b>now</b>"
    assert page.evaluate("document.querySelector('b')") is None


def test_which_of_the_two_answers(page: Chromium, paired: ServerProcess) -> None:
    answered_by, agreed = set(), set()
    for text in TEXTS:
        student, teacher = _classify(page, text)
        verdict = page.evaluate("$('verdict').innerText")
        agree = student["chosen"] == teacher["chosen"]
        assert verdict.startswith(f"Student and teacher {'agree.' if agree else 'disagree: '}")
        served_by = _ask(paired, text)["served_by"]
        assert f"would answer with the {'teacher' if served_by == 'teach' else 'student'}" in verdict
        answered_by.add(served_by)
        agreed.add(agree)
    assert answered_by == {"bundle", "teach"}
    assert agreed == {True, False}


def test_the_student_does_not_wait_for_its_teacher(page: Chromium) -> None:
    page.wait("model")
    page.evaluate(
        """{
          const real = window.fetch;
          window.fetch = async (path, options) => {
            if (options?.body?.includes('"teach"')) await new Promise((done) => { window.release = done; });
            return window.fails ? Promise.reject(new TypeError()) : real(path, options);
          };
        }"""
    )
    page.evaluate("void classify(fill('where is it'))")
    page.wait("window.release && columns[0].status.innerText.endsWith(' ms')")
    assert page.evaluate("columns[1].root.className") == "panel column waiting"
    assert page.evaluate("columns[1].root.getAttribute('aria-busy')") == "true"
    assert page.evaluate("$('verdict').innerText") == ""
    page.evaluate("window.fails = true, release()")
    page.wait("!pending")
    assert page.evaluate("columns[0].bars.children.length") == len(INTENTS)
    assert page.evaluate("columns[1].status.innerText").startswith("Not classified: the server cannot be reached")
    page.evaluate("window.fails = false")


def test_notices_and_errors(page: Chromium) -> None:
    for column in _classify(page, LONG):
        assert "Truncated. The text is longer than 128 tokens" in column["said"]
    for column in _classify(page, "short", LONG):
        assert "Truncated. The two texts together are longer" in column["said"]
    assert "Truncated" not in _classify(page, "short")[0]["said"]

    page.evaluate("classify(fill(' '))")
    page.wait("!$('error').hidden && !document.querySelector('.column:not(.idle)')")
    assert page.evaluate("$('error').innerText") == "Write a text first."
    page.evaluate("classify(fill('x'.repeat(30000)))")
    page.wait("!pending")
    assert page.evaluate("$('error').innerText").startswith("Not classified: ")
    assert len(_classify(page, "short")) == 2
    assert page.evaluate("$('error').hidden")


def test_the_agreement_is_watched_while_the_page_is_seen(page: Chromium, paired: ServerProcess) -> None:
    for text in TEXTS:
        _classify(page, text)
    read = """({
      figures: [...document.querySelectorAll("dd:first-of-type")].map((each) => each.innerText),
      pairs: [...$("disagreements").tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.innerText)),
    })"""
    page.wait("!$('agreement').hidden && !$('compared').hidden")
    end = time.monotonic() + 20
    while page.evaluate(read) != _figures(httpx.get(f"{paired.url}/v1/agreement").json()):
        assert time.monotonic() < end, (page.evaluate(read), httpx.get(f"{paired.url}/v1/agreement").json())
        time.sleep(0.2)
    assert page.evaluate("$('worst').tBodies[0].rows[0].cells[0].scope") == "row"

    page.evaluate("Object.defineProperty(document, 'hidden', { get: () => !window.seen, configurable: true })")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.evaluate("new Promise((done) => setTimeout(done, 200))")
    page.requested.clear()
    page.evaluate("new Promise((done) => setTimeout(done, POLL + 300))")
    assert not page.requested
    page.evaluate("window.seen = true, document.dispatchEvent(new Event('visibilitychange'))")
    page.evaluate("new Promise((done) => setTimeout(done, 200))")
    assert page.requested == [f"{paired.url}/v1/agreement"]


def _figures(seen: dict[str, Any]) -> dict[str, Any]:
    """What the page should show of the agreement."""
    shares = [f"{seen['agreement']:.1%}", f"{seen['recent']['agreement']:.1%}"]
    pairs = [[each["student"], each["teacher"], str(each["texts"])] for each in seen["disagreements"][:5]]
    return {"figures": [*shares, f"{seen['mean_divergence']:.3f}", "–"], "pairs": pairs}


def test_a_key_is_asked_for_and_models_can_be_chosen(browser: Chromium, keyed: ServerProcess) -> None:
    browser.resize(1280, 900)
    _open(browser, keyed.url)
    browser.open(f"{keyed.url}/?text=where+is+my+order")
    browser.wait("!$('access').hidden && document.activeElement.id === 'key'")
    assert browser.evaluate("$('refusal').hidden")
    browser.type("a-key-that-nobody-has")
    browser.press("Enter")
    browser.wait("!$('refusal').hidden")
    browser.type(KEY)  # over the one that was refused
    browser.press("Enter")
    (column,) = _columns(browser)
    assert column["said"].startswith("No answer: below 45% confidence")
    assert column["chosen"] == []
    assert len(column["bars"]) == len(INTENTS)
    assert browser.evaluate("$('access').hidden && $('key').value === '' && document.activeElement.id === 'text'")
    assert browser.evaluate("Object.values(sessionStorage)") == [KEY]

    # Kept for the tab, and never in an address.
    browser.open(f"{keyed.url}/?text=where+is+my+parcel")
    assert len(_columns(browser)) == 1
    assert not [url for url in browser.requested if KEY in url]

    browser.press("Tab", shift=True)
    assert browser.evaluate("document.activeElement.id") == "models"
    browser.press("ArrowDown")
    browser.wait("model.model === 'several'")
    browser.press("Tab")
    browser.press("Enter", control=True)
    (column,) = _columns(browser)
    assert sorted(column["chosen"]) == sorted(INTENTS)
    assert column["said"].startswith(", ".join(sorted(INTENTS)))
    assert browser.evaluate("new URL($('link').href).searchParams.get('model')") == "several"
    _check(browser, keyed.url)


def test_it_fits_a_phone(browser: Chromium, paired: ServerProcess, keyed: ServerProcess) -> None:
    browser.resize(360, 740, phone=True)
    _open(browser, paired.url)
    browser.wait("model")
    _classify(browser, LONG, "a_label_without_any_room_to_break_it_" * 20)
    browser.wait("!$('compared').hidden", 10)
    edges = browser.evaluate("columns.map(({ root }) => root.getBoundingClientRect()).map(({ x, y }) => [x, y])")
    assert edges[0][0] == edges[1][0]
    assert edges[0][1] < edges[1][1]
    assert browser.evaluate("document.documentElement.scrollWidth") == 360
    browser.open(f"{keyed.url}/")
    browser.evaluate("askForKey()")
    assert browser.evaluate("document.documentElement.scrollWidth") == 360
