"""The schema of the results: what keeps to it, what does not, and its documented form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from benchmarks.bench.report.schema import json_schema, parse_results, read_results
from common.errors import InputError
from tests.benchmarks.bench.factory import make_results, remote

DOCUMENTED = Path(__file__).resolve().parents[4] / "docs" / "bench.schema.json"


def test_the_documented_schema_is_the_one_in_use() -> None:
    assert DOCUMENTED.read_text(encoding="utf-8") == json_schema()


@pytest.mark.parametrize(
    "results",
    [
        make_results(3),
        make_results(0),
        make_results(labelled=False),
        make_results(scenarios=()),
        remote(make_results(2)),
    ],
    ids=["three students", "teacher alone", "no labels", "no scenario", "remote"],
)
def test_results_keep_to_the_schema(results: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(json.loads(json_schema())).validate(results)
    dumped = parse_results(results).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert dumped == results


def _without_noise(results: dict[str, Any]) -> None:
    del results["noise"]


def _with_more(results: dict[str, Any]) -> None:
    results["noise"]["surprise"] = 1


def _with_text_for_a_figure(results: dict[str, Any]) -> None:
    results["single_stream"]["models"]["teacher"]["p50_ms"]["value"] = "fast"


def _with_no_number(results: dict[str, Any]) -> None:
    results["noise"]["spread"] = float("nan")


def _with_a_negative_count(results: dict[str, Any]) -> None:
    results["data"]["rows"] = -1


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_without_noise, "noise: Field required"),
        (_with_more, "noise.surprise"),
        (_with_text_for_a_figure, "single_stream.models.teacher.p50_ms.value"),
        (_with_no_number, "noise.spread"),
        (_with_a_negative_count, "data.rows"),
    ],
)
def test_others_are_refused_in_one_line_that_names_the_place(
    spoil: Callable[[dict[str, Any]], None], named: str, tmp_path: Path
) -> None:
    results = make_results()
    spoil(results)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with pytest.raises(InputError) as refused:
        read_results(path)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "not a JSON object"),
        ("{", "not valid JSON"),
        ("{}", "no results of understudy bench"),
        ('{"made_by": "understudy"}', "no results of understudy bench"),
        ('{"made_by": "understudy", "format_version": 1}', "format version 1, and 2 is needed"),
    ],
)
def test_another_file_is_refused(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_results(path)


def test_a_report_directory_stands_for_its_results(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(make_results()))
    results = read_results(tmp_path)
    assert results.teacher.id == "teacher"
    assert [model.id for model in results.students] == ["student"]
