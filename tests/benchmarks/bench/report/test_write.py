"""The report's files: what the page and the Markdown hold, and that no text of the data is taken as markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench.report.against import compare_runs
from benchmarks.bench.report.schema import parse_results
from benchmarks.bench.report.sections import sections
from benchmarks.bench.report.write import write_report
from tests.benchmarks.bench.factory import HOSTILE, SCENARIOS, make_results, remote

VOID = {"meta", "link", "rect", "path", "polyline", "br"}


class Page(HTMLParser):
    """A page's elements and its text; complains of what is not closed."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _written(results: dict[str, Any], directory: Path) -> tuple[Page, str]:
    page = write_report(parse_results(results), directory)
    return Page(page.read_text(encoding="utf-8")), (directory / "report.md").read_text(encoding="utf-8")


def test_the_page_is_whole_without_script_or_other_file(tmp_path: Path) -> None:
    page, _ = _written(make_results(2), tmp_path)
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "img", "iframe", "object", "form"} & set(tags)
    attributes = [(name, value or "") for _, every in page.elements for name, value in every.items()]
    assert not [name for name, _ in attributes if name.startswith("on")]
    assert {value for name, value in attributes if name in ("src", "href")} == {"data:,"}
    assert "url(" not in "".join(page.text)
    assert any("default-src 'none'" in value for _, value in attributes)
    identifiers = [value for name, value in attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    assert tags.count("svg") == 6
    assert [tag for tag in tags if re.fullmatch(r"h\d", tag)][:3] == ["h1", "h2", "h3"]


@pytest.mark.parametrize("hostile", [HOSTILE, "</bdi></table><script>1</script>", "\ud800 \x00 a\nb", "&lt;b&gt;"])
def test_hostile_texts_are_shown_as_they_are(hostile: str, tmp_path: Path) -> None:
    results = make_results(text=hostile)
    results["models"][1]["name"] = results["data"]["name"] = hostile
    results["task"]["labels"] = [hostile, "positive"]
    results["agreement"]["models"]["student"]["confusion"][0]["teacher"] = hostile
    results["machine"]["cpu"] = results["machine"]["surprise"] = hostile
    results["noise"].update(verdict="noisy", reasons=[hostile])
    results["command"].append(hostile)
    results["quality"]["metric"] = hostile
    for model in results["quality"]["models"].values():
        model["metrics"][hostile] = model["metrics"].pop("accuracy")
    page, markdown = _written(results, tmp_path)
    tags = {tag for tag, _ in page.elements}
    assert not {"script", "img"} & tags
    if hostile.isprintable():
        assert f"0: {hostile}" in page.text
    assert "<script" not in markdown
    assert "[link](" not in markdown
    assert not re.search(r"(?<!\\)(`code|\*bold|_it)", markdown)
    _check_tables(markdown)


def test_a_students_id_is_no_markup_either(tmp_path: Path) -> None:
    results = make_results()
    name = "<b>|x"
    results["models"][1]["id"] = name
    for part in ("quality", "agreement", "single_stream", "multi_stream", "server", "offline", "cost"):
        results[part]["models"][name] = results[part]["models"].pop("student")
    page, markdown = _written(results, tmp_path)
    assert "b" not in {tag for tag, _ in page.elements}
    assert f"{name} against teacher" in page.text
    _check_tables(markdown)


def _check_tables(markdown: str) -> None:
    """Rows have as many cells as their table's head."""
    cells = 0
    for line in markdown.splitlines():
        if not line.startswith("| "):
            cells = 0
            continue
        found = len(re.findall(r"(?<!\\)\|", line))
        assert found == (cells or found), line
        cells = found


def test_markdown_says_the_same_and_its_charts_are_there(tmp_path: Path) -> None:
    page, markdown = _written(make_results(2), tmp_path)
    _check_tables(markdown)
    for said in ("2.00× as fast as the teacher", "0.9083", "negative → positive: 29 texts, 3 shown", "onnxruntime"):
        assert any(said in text for text in page.text), said
        assert said in markdown
    headings = re.findall(r"^## (.*)$", markdown, re.MULTILINE)
    assert ["Verdict", *[section.title for section in sections(parse_results(make_results(2)))]] == headings
    files = re.findall(r"!\[[^\]]*\]\((.*)\)", markdown)
    assert len(files) == 6
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.svg")} == set(files)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_was_not_measured_has_no_section(scenario: str, tmp_path: Path) -> None:
    _, markdown = _written(make_results(scenarios=(scenario,)), tmp_path)
    assert [name for name in SCENARIOS if f"\\({name}\\)" in markdown or f"({name})" in markdown] == [scenario]


def test_little_is_enough_for_a_report(tmp_path: Path) -> None:
    results = make_results(labelled=False, scenarios=())
    results.update(agreement=None, cost=None, roofline=None)
    results["noise"]["rounds"] = {}
    page, markdown = _written(results, tmp_path)
    assert "student: nothing could be compared." in page.text
    assert "## How it was measured" in markdown


def test_a_server_says_what_it_did_not_answer(tmp_path: Path) -> None:
    page, _ = _written(remote(make_results(2)), tmp_path)
    text = "\n".join(page.text)
    for said in ("http://127.0.0.1:8080, tei", "900 requests", "errors: 429 3", "3 errors beside", "even 1 text/s"):
        assert said in text, said


def test_a_noisy_run_says_so_before_all_else(tmp_path: Path) -> None:
    page, markdown = _written(make_results(noisy=True), tmp_path)
    text = "\n".join(page.text)
    assert text.index("NO VERDICT ON SPEED") < text.index("keeps 98.3 %")
    assert "What do you gain?" in text  # the size on disk
    assert "> **NO VERDICT ON SPEED" in markdown


def test_the_matrix_is_shown_for_few_labels_alone(tmp_path: Path) -> None:
    results = make_results()
    assert "| negative | 404 | 29 |" in _written(results, tmp_path)[1]
    results["task"]["labels"] += [f"label {number}" for number in range(5)]
    (tmp_path / "wide").mkdir()
    assert "teacher ↓" not in _written(results, tmp_path / "wide")[1]


def test_changes_stand_in_the_report_and_in_a_file_of_their_own(tmp_path: Path) -> None:
    old, new = parse_results(make_results()), parse_results(make_results(slower=1.3))
    page = write_report(new, tmp_path, compare_runs(old, new)).read_text(encoding="utf-8")
    assert "What changed since" in page
    assert "worse" in (tmp_path / "changes.json").read_text(encoding="utf-8")
