"""What `compare` takes, files and bundles, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.errors import InputError, TextError
from common.examples import Columns
from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task
from demo.messages import DEV
from export.bundle import MANIFEST_FILE
from serve.comparison.comparison import Comparison, compare
from serve.comparison.label_comparison import Flip
from serve.comparison.report import print_comparison
from serve.engine import Engine, Prediction
from serve.scoring.score import score
from serve.scoring.settings import ScoreSettings
from tests.conftest import INTENTS, messages, write_tsv
from tests.scored_tables import Row, compared, failed, scored, write

GOOD = [scored("a", 0.75, text="x"), scored("b", 0.75, text="y")]


@pytest.mark.parametrize("first", [".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("second", [".tsv", ".jsonl", ".parquet"])
def test_formats_may_differ(first: str, second: str, tmp_path: Path) -> None:
    texts = ["x", "", "y"]
    a = [scored("1", 0.7, text="x"), failed(text=""), scored("0", 1.0, text="y")]
    b = [scored("1", 0.5, text="x"), failed(text=""), scored("1", 0.5, text="y")]
    result = compare(write(tmp_path / f"a{first}", a), write(tmp_path / f"b{second}", b))
    assert (result.rows, result.compared, result.errors_both) == (len(texts), 2, 1)
    assert result.labels is not None
    assert [(flip.a, flip.b) for flip in result.labels.flips] == [("0", "1")]
    numbers = [[scored(x, x, text="x")] for x in (0.25, 0.75)]
    paths = [
        write(tmp_path / f"n{n}{suffix}", rows)
        for n, (rows, suffix) in enumerate(zip(numbers, (first, second), strict=True))
    ]
    told = compare(*paths).numbers
    assert told is not None
    assert told.shift.maximum == 0.5


@pytest.mark.parametrize("suffix", [".tsv", ".parquet", ".jsonl"])
def test_rows_without_a_label_are_the_same_from_both_sides(suffix: str, tmp_path: Path) -> None:
    typed = [scored("a|b", 0.7, text="x", label=["b", "a"]), scored("a", 0.7, text="y", label=None),
             scored("", 0.4, text="z", label=[])]  # fmt: skip
    plain = [{**row, "label": label} for row, label in zip(typed, ("b|a", "", ""), strict=True)]
    paths = write(tmp_path / "a.jsonl", typed), write(tmp_path / f"b{suffix}", plain)
    for result in (compare(*paths), compare(*reversed(paths))):
        assert result.labels is not None
        assert result.labels.correctness is not None
        assert (result.labels.correctness.rows, result.labels.correctness.both_right) == (2, 2)


@pytest.mark.parametrize(("other", "wanted"), [(0.3, {"micro-f1": 2 / 3, "exact-match": 0.5}), (0.25, {"accuracy": 1})])
def test_several_labels_show_in_probabilities(other: float, wanted: dict[str, float], tmp_path: Path) -> None:
    scores = {"a": 0.75, "b": other}
    rows = [scored("a", 0.75, scores, text=str(n), label=right) for n, right in enumerate(("a", "", "a|c"))]
    path = write(tmp_path / "rows.jsonl", rows)
    labels = compare(path, path).labels
    assert labels is not None
    assert labels.correctness is not None
    assert labels.correctness.unknown_labels == 1
    assert labels.correctness.metrics_a == pytest.approx(wanted)


def test_two_prefixes_in_one_file_and_no_texts(tmp_path: Path) -> None:
    rows = [
        {f"{prefix}{name}": value for prefix, label in (("t_", a), ("s_", b)) for name, value in scored(label).items()}
        for a, b in (("a", "a"), ("a", "b"))
    ]
    path = write(tmp_path / "both.jsonl", rows)
    result = compare(path, path, prefix_a="t_", prefix_b="s_")
    assert (result.agreement, result.with_text) == (0.5, False)
    assert [row.text for row in result.differing] == [None]
    with pytest.raises(InputError, match=r"has no column 'prediction': .* It has 't_prediction': name the prefix"):
        compare(path, path, prefix_b="s_")


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ([GOOD[0]], "b.jsonl ends after row 1 and .*a.jsonl goes on"),
        ([*GOOD, GOOD[0]], "a.jsonl ends after row 2 and .*b.jsonl goes on"),
        ([GOOD[0], scored("b", text="z")], "row 2: the texts differ: these are scores of different inputs"),
        ([{"text": "x", "label": "a"}], "has no column 'prediction': was it written by `understudy score`"),
        ([scored("a"), scored("b")], "a.jsonl has a text column, 'text', and .*b.jsonl has none"),
        ([failed(text="x"), failed(text="y")], "b.jsonl: every row has an error"),
        ([failed(text="x"), {**GOOD[1], "prediction": None}], "b.jsonl, row 2: neither a prediction nor an error"),
        ([scored(0.5, 0.5, text="x"), scored(0.5, 0.5, text="y")], "a.jsonl holds labels and .*b.jsonl numbers"),
        ([GOOD[0], scored("b", 1.5, text="y")], "row 2: the score 1.5 is no probability"),
        ([GOOD[0], {**GOOD[1], "score": "much"}], "row 2: the score 'much' is no finite number"),
    ],
)
def test_files_that_do_not_belong_together(other: list[Row], reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        compared(tmp_path, GOOD, other)


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ("{", "'scores' is no JSON object"),
        ("[0.5]", "'scores' is no JSON object"),
        ('{"a": 2}', "no probability"),
        ('{"z": 0.5}', "the prediction 'a' is not among"),
    ],
)
def test_scores_that_are_none(scores: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        compared(tmp_path, [{**GOOD[0], "scores": scores}], [scored("a", 0.5, {"a": 0.5}, text="x")])


def test_what_has_nothing_in_common(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no label in common: A has a, b; B has c"):
        compared(tmp_path, [scored("a", 0.5, {"a": 0.5, "b": 0.5})], [scored("c", 1, {"c": 1})])
    with pytest.raises(InputError, match="no row is answered by both: 2 rows"):
        compared(tmp_path, [GOOD[0], failed(text="y")], [failed(text="x"), GOOD[1]])
    with pytest.raises(InputError, match="row 1: the labels differ"):
        compared(tmp_path, [{**GOOD[0], "label": "a"}], [{**GOOD[0], "label": "b"}])
    header = "text\tprediction\tscore\ttruncated\terror\n"
    (tmp_path / "none.tsv").write_text(header)
    (tmp_path / "empty.tsv").write_text("")
    good = write(tmp_path / "a.jsonl", GOOD)
    for name, reason in (("none", "holds no rows"), ("empty", "is empty"), ("missing", "no such file")):
        with pytest.raises(InputError, match=reason):
            compare(good, tmp_path / f"{name}.tsv")
    with pytest.raises(InputError, match="has no column 'body'"):
        compare(good, good, columns=Columns(text="body"))


def test_bundles_answer_as_their_files_say(bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": INTENTS[n % 3]} for n, row in enumerate(messages(DEV)[:40])]
    rows.insert(3, {"text": "", "label": INTENTS[0]})
    data = write_tsv(tmp_path / "data.tsv", rows)
    direct = compare(bundle, bundle, data=data)
    paths = [tmp_path / "a.tsv", tmp_path / "b.parquet"]
    for path in paths:
        score(bundle, data, path, ScoreSettings(all_scores=True))
    by_files = compare(*paths)
    assert direct.labels is not None
    assert (direct.errors_both, direct.compared, direct.agreement) == (1, 40, 1.0)
    assert direct.labels == by_files.labels
    answers = Engine.load(bundle).classify([row["text"] for row in rows])
    given = Counter(answer.label for answer in answers if isinstance(answer, Prediction))
    assert {entry.label: entry.rows for entry in direct.labels.by_label} == given


class _Model:
    """Stands for an engine: the same scores whatever the text, of which none is empty."""

    def __init__(self, task: Task, scores: list[float]):
        self.task = task
        self.bundle = SimpleNamespace(manifest=SimpleNamespace(of_single_texts=True))
        self._scores = np.array(scores, np.float32)

    def classify(self, texts: list[Any]) -> list[Prediction | TextError]:
        answer = Prediction(self.task, self._scores, self._scores, 3, False)
        return [answer if text else TextError("empty") for text in texts]


Compare = Callable[[_Model, _Model], Comparison]


@pytest.fixture
def compare_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """`compare` of two models on two texts, of which the first is empty."""
    data = write_tsv(tmp_path / "data.tsv", [{"text": "", "id": 1}, {"text": "x", "id": 2}])

    def run(a: _Model, b: _Model) -> Comparison:
        models = {}
        for name, model in (("a", a), ("b", b)):
            (tmp_path / name).mkdir()
            (tmp_path / name / MANIFEST_FILE).touch()
            models[tmp_path / name] = model
        monkeypatch.setattr(Engine, "load", lambda path, **_: models[path])
        return compare(tmp_path / "a", tmp_path / "b", data=data)

    return run


def test_models_whose_labels_differ_in_part(compare_models: Compare) -> None:
    result = compare_models(
        _Model(Task(SINGLE_LABEL, ("a", "b")), [0.75, 0.25]), _Model(Task(SINGLE_LABEL, ("c", "b")), [0.5, 0.5])
    )
    labels = result.labels
    assert labels is not None
    assert (labels.only_a, labels.only_b, labels.flips) == (("a",), ("c",), (Flip("a", "c", 1),))
    assert labels.shift is not None
    assert labels.shift.maximum == 0.75
    assert [(row.row, row.text) for row in result.differing] == [(2, "x")]


def test_labels_that_neither_model_has_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "rows.jsonl", [scored("a", 0.75, {"a": 0.75, "b": 0.25}, text="x", label="c")])
    result = compare(path, path)
    assert result.labels is not None
    assert result.labels.correctness is not None
    assert (result.labels.correctness.rows, result.labels.correctness.unknown_labels) == (0, 1)
    print_comparison(result)
    assert "1 row left out, with a label that neither model has" in capsys.readouterr().out


@pytest.mark.parametrize("scores", [{"LABEL_0": 0.75}, None])
def test_one_output_is_a_label_that_holds_or_not(scores: dict[str, float] | None, tmp_path: Path) -> None:
    answers = [("LABEL_0", "1"), ("LABEL_0", "0"), ("", "0"), ("LABEL_0", "1")]
    rows = [scored(answer, 0.75, scores, text=str(n), label=right) for n, (answer, right) in enumerate(answers)]
    path = write(tmp_path / "rows.jsonl", rows)
    labels = compare(path, path).labels
    assert labels is not None
    assert labels.correctness is not None
    assert labels.correctness.metrics_a == {"micro-f1": 0.8, "exact-match": 0.75}


def test_models_of_several_labels(compare_models: Compare) -> None:
    task = Task(MULTI_LABEL, ("a", "b", "c"), (0.5, 0.5, 0.9))
    result = compare_models(_Model(task, [0.75, 0.625, 0.875]), _Model(task, [0.875, 0.25, 0.125]))
    assert result.labels is not None
    assert (result.labels.flips, result.agreement) == ((Flip("a|b", "a", 1),), 0.0)


def test_models_that_answer_with_numbers(compare_models: Compare) -> None:
    task = Task(REGRESSION, ("score",))
    numbers = compare_models(_Model(task, [1.5]), _Model(task, [-1.0])).numbers
    assert numbers is not None
    assert (numbers.bias, numbers.shift.maximum) == (-2.5, 2.5)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Task(SINGLE_LABEL, ("x", "y")), "no label in common: A has a, b; B has x, y"),
        (Task(MULTI_LABEL, ("a", "b")), r"is for single label classification and .* for multi label classification"),
    ],
)
def test_models_that_answer_different_questions(other: Task, reason: str, compare_models: Compare) -> None:
    with pytest.raises(InputError, match=reason):
        compare_models(_Model(Task(SINGLE_LABEL, ("a", "b")), [0.5, 0.5]), _Model(other, [0.5, 0.5]))


def test_a_bundle_and_a_file_are_not_compared(bundle: Path, tmp_path: Path) -> None:
    good = write(tmp_path / "a.jsonl", GOOD)
    with pytest.raises(InputError, match="give two files of scores, or two bundles and --data"):
        compare(bundle, good)
    with pytest.raises(InputError, match="name it with --data"):
        compare(bundle, bundle)
    with pytest.raises(InputError, match="--data is for two bundles"):
        compare(good, good, data=good)
    with pytest.raises(InputError, match="a prefix is of a file's columns"):
        compare(bundle, bundle, data=good, prefix_a="a_")


def test_directories_of_files_are_compared(student_bundle: Path, teacher_bundle: Path, tmp_path: Path) -> None:
    data = write_tsv(tmp_path / "in.tsv", messages(DEV)[:50])
    for name, bundle in (("a", student_bundle), ("b", teacher_bundle)):
        score(bundle, data, tmp_path / name, ScoreSettings(rows_per_file=20, format="jsonl.gz"))
        score(bundle, data, tmp_path / f"{name}.csv")
    whole, parts = (compare(tmp_path / f"a{end}", tmp_path / f"b{end}") for end in (".csv", ""))
    assert whole.labels is not None
    assert parts.labels is not None
    assert (parts.rows, parts.labels.flips) == (50, whole.labels.flips)
