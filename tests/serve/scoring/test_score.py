"""`score`: the input's rows in their order with the engine's answers beside them."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score

from common.errors import InputError
from demo.messages import DEV
from serve.engine import Engine, Prediction
from serve.scoring import run as run_module
from serve.scoring.score import score
from serve.scoring.settings import ScoreSettings
from tests.conftest import INTENTS, messages

TEXTS = [row["text"] for row in messages(DEV)[:30]]


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case suffix:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, rows[0], delimiter="\t" if suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
    return path


def _read(path: Path) -> list[dict[str, Any]]:
    match path.suffix:
        case ".jsonl":
            return [json.loads(line) for line in path.read_text().splitlines()]
        case ".parquet":
            return list(pq.read_table(path).to_pylist())
        case suffix:
            with path.open(newline="", encoding="utf-8") as file:
                return list(csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ","))


def _plain(text: str) -> str:
    return text.replace('"', "'")


@pytest.mark.parametrize("source", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("target", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_format_into_every_other(
    source: str, target: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "SHARD_ROWS", 7)
    rows = [{"id": f"r{number}", "text": _plain(text)} for number, text in enumerate(TEXTS)]
    output = tmp_path / f"out{target}"
    score(bundle, _write(tmp_path / f"in{source}", rows), output)
    answers = Engine.load(bundle).classify([row["text"] for row in rows])
    for row, scored, answer in zip(rows, _read(output), answers, strict=True):
        assert isinstance(answer, Prediction)
        assert (scored["id"], scored["text"], scored["prediction"]) == (row["id"], row["text"], answer.label)
        assert float(scored["score"]) == pytest.approx(answer.score, abs=1e-6)
        assert scored["truncated"] in (False, "false")
        assert scored["error"] in (None, "")


def test_parquet_keeps_its_types(bundle: Path, tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(TEXTS[:3]),
            "count": pa.array([1, None, 3], pa.int16()),
            "when": pa.array([1, 2, 3], pa.timestamp("ns")),
            "tags": pa.array([["a"], [], None], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    score(bundle, tmp_path / "in.parquet", tmp_path / "out.parquet")
    scored = pq.read_table(tmp_path / "out.parquet")
    assert scored.select(table.column_names).equals(table)
    assert scored.schema.field("score").type == pa.float32()


def test_bad_rows_are_kept_with_their_reason(bundle: Path, tmp_path: Path) -> None:
    rows = [
        {"text": TEXTS[0]},
        {"text": ""},
        {"text": None},
        {"text": 7},
        {"text": "x" * 100_001},
        {},
        {"text": TEXTS[1]},
    ]
    summary = score(bundle, _write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    scored = _read(tmp_path / "out.jsonl")
    assert (summary.rows, summary.errors) == (7, 5)
    assert [row["error"] is not None for row in scored] == [False, True, True, True, True, True, False]
    assert [row["prediction"] is None for row in scored] == [False, True, True, True, True, True, False]


def test_truncation_is_reported(bundle: Path, tmp_path: Path) -> None:
    summary = score(bundle, _write(tmp_path / "in.jsonl", [{"text": "parcel " * 300}]), tmp_path / "out.jsonl")
    assert summary.truncated == 1
    assert _read(tmp_path / "out.jsonl")[0]["truncated"] is True


def test_metrics_are_scikit_learns(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": text, "label": INTENTS[number % 3]} for number, text in enumerate(TEXTS)]
    rows.append({"text": "hello there", "label": "unheard of"})
    summary = score(bundle, _write(tmp_path / "in.csv", rows), tmp_path / "out.csv", ScoreSettings(metric="macro-f1"))
    predicted = [row["prediction"] for row in _read(tmp_path / "out.csv")][:-1]
    truth = [row["label"] for row in rows][:-1]
    assert summary.metrics["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert summary.metrics["macro-f1"] == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))
    assert summary.unknown_labels == 1
    printed = capsys.readouterr().out
    assert f"macro-f1 {summary.metrics['macro-f1']:.4f}" in printed
    assert "1 rows have a label that the model has not" in printed


def test_all_scores_and_prefix(bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": TEXTS[0], "score": "mine"}]
    with pytest.raises(InputError, match="column 'score' already: choose other names with --prefix"):
        score(bundle, _write(tmp_path / "in.csv", rows), tmp_path / "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]
    score(bundle, tmp_path / "in.csv", tmp_path / "out.csv", ScoreSettings(all_scores=True, prefix="model_"))
    row = _read(tmp_path / "out.csv")[0]
    assert row["score"] == "mine"
    scores = json.loads(row["model_scores"])
    assert set(scores) == set(INTENTS)
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("in.jsonl", {}),
        *((name, {"text_pair": pair}) for name in ("in.jsonl", "in.parquet") for pair in (None, TEXTS[2])),
        *(("in.csv", {"text_pair": pair}) for pair in ("", TEXTS[2])),
    ],
)
def test_each_row_is_a_pair_or_not_by_itself(
    name: str, first: dict[str, str | None], student_bundle: Path, tmp_path: Path
) -> None:
    of_single_texts = shutil.copytree(student_bundle, tmp_path / "bundle")
    manifest = json.loads((of_single_texts / "understudy.json").read_text())
    manifest["made_from"]["data"] = {"train": {"pairs": False}}
    (of_single_texts / "understudy.json").write_text(json.dumps(manifest))
    rows = [
        {"text": TEXTS[0], **first},
        {"text": TEXTS[0], "text_pair": TEXTS[1]},
        {"text": TEXTS[1], "text_pair": None},
    ]
    score(of_single_texts, _write(tmp_path / name, rows), tmp_path / "out.jsonl")
    pair = first.get("text_pair")
    texts = [TEXTS[0] if not pair else (TEXTS[0], pair), (TEXTS[0], TEXTS[1]), TEXTS[1]]
    for scored, answer in zip(_read(tmp_path / "out.jsonl"), Engine.load(student_bundle).classify(texts), strict=True):
        assert isinstance(answer, Prediction)
        assert scored["score"] == pytest.approx(answer.score, abs=1e-6)


def test_half_a_pair_is_no_text_for_a_model_of_pairs(bundle: Path, tmp_path: Path) -> None:
    """Nor for one of which nobody knows what it was trained on, or where the pair column is named."""
    rows = [{"text": TEXTS[0], "text_pair": None}, {"text": TEXTS[0], "text_pair": TEXTS[1]}]
    score(bundle, _write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    assert [row["error"] for row in _read(tmp_path / "out.jsonl")] == ["no text", None]


def test_other_heads(multi_label_bundle: Path, regression_bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": text} for text in TEXTS[:5]]
    for bundle in (multi_label_bundle, regression_bundle):
        output = tmp_path / f"{bundle.parent.name}.parquet"
        score(bundle, _write(tmp_path / "in.jsonl", rows), output, ScoreSettings(overwrite=True))
        answers = Engine.load(bundle).classify(TEXTS[:5])
        for scored, answer in zip(_read(output), answers, strict=True):
            assert isinstance(answer, Prediction)
            wanted = pytest.approx(answer.score, abs=1e-6) if bundle is regression_bundle else answer.answer
            assert scored["prediction"] == wanted


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("in.csv", b"text,label\na,b\nc,d,e\n", "line 3: 3 fields where the header names 2"),
        ("in.csv", b'text\n"open\n', "line 2: not valid CSV: a quotation mark is left open"),
        ("in.tsv", b"text\nfine\n\xe9t\xe9\n", "line 3: not UTF-8"),
        ("in.jsonl", b'{"text": "a"}\n[1]\n', "line 2: a row must be a JSON object"),
        ("in.parquet", b"text\nno parquet\n", "is not a Parquet file"),
        ("in.csv", b"words\na\n", "has no text column"),
        ("in.csv", b"", "is empty"),
        ("in.xlsx", b"a", "unknown table format"),
    ],
)
def test_a_file_that_cannot_be_read_ends_it_and_leaves_nothing(
    name: str, content: bytes, reason: str, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        score(bundle, tmp_path / name, tmp_path / "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_input_as_output_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = _write(tmp_path / "in.csv", [{"text": TEXTS[0]}])
    before = path.read_bytes()
    with pytest.raises(InputError, match="is the input itself"):
        score(bundle, path, path, ScoreSettings(overwrite=True))
    assert path.read_bytes() == before


def test_progress_is_silent_where_there_is_no_terminal(
    bundle: Path, tmp_path: Path, understudy: Callable[..., Any]
) -> None:
    path = _write(tmp_path / "in.csv", [{"text": text} for text in TEXTS])
    result = understudy("score", bundle, path, "-o", tmp_path / "out.csv")
    assert (result.code, result.err) == (0, "")
    assert "30 rows, 0 with an error" in result.out
