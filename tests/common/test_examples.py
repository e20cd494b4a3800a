"""Columns found by name, rows checked with their place, and the task that labels pose."""

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from common.examples import BY_USUAL_NAMES, Columns, Examples, find_task, read_examples
from common.labels import MULTI_LABEL, REGRESSION, SINGLE_LABEL, Task


def put(folder: Path, name: str, content: bytes | str) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def examples(labels: list[str]) -> Examples:
    places = [f"t.csv, line {number}" for number in range(2, len(labels) + 2)]
    return Examples("t.csv", "", ["text"] * len(labels), labels, places)


def refusal(source: str, columns: Columns = BY_USUAL_NAMES, **options: Any) -> str:
    """The one line with which reading `source` ends."""
    with pytest.raises(InputError) as raised:
        read_examples(source, columns, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Columns


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["text", "label"], ("text", None, "label")),
        (["id", "sentence", "labels"], ("sentence", None, "labels")),
        (["text", "intent"], ("text", None, "intent")),
        (["category", "text"], ("text", None, "category")),
        (["label", "intent", "text", "sentence"], ("text", None, "label")),
        (["index", "sentence1", "sentence2", "label"], ("sentence1", "sentence2", "label")),
        (["premise", "hypothesis", "label"], ("premise", "hypothesis", "label")),
        (["question1", "question2", "label"], ("question1", "question2", "label")),
        (["question", "sentence", "label"], ("question", "sentence", "label")),
        (["text", "text_pair", "label"], ("text", "text_pair", "label")),
        (["question", "text", "label"], ("text", None, "label")),
        (["sentence", "sentence2", "label"], ("sentence", None, "label")),
    ],
)
def test_columns_are_found_by_the_usual_names(names: list[str], found: tuple[str, str | None, str]) -> None:
    assert BY_USUAL_NAMES.found_in(names, "t.csv", need_label=True) == Columns(*found)


def test_columns_named_outweigh_the_usual_names() -> None:
    names = ["text", "text_pair", "label", "body", "title", "topic"]
    assert Columns(text="body", label="topic").found_in(names, "t", need_label=True) == Columns("body", None, "topic")
    assert Columns("title", "body").found_in(names, "t", need_label=True) == Columns("title", "body", "label")
    assert Columns(label="topic").found_in(names, "t", need_label=True) == Columns("text", "text_pair", "topic")


@pytest.mark.parametrize("role", ["text", "pair", "label"])
def test_a_named_column_that_is_absent_is_refused_with_those_there(role: str) -> None:
    columns = Columns(**{"text": "text", role: "subject"})
    with pytest.raises(InputError, match=r"t\.csv has no column 'subject'; it has: text, label"):
        columns.found_in(["text", "label"], "t.csv", need_label=True)


def test_columns_that_cannot_be_found_are_refused_with_the_flag_that_names_them() -> None:
    with pytest.raises(InputError, match=r"t\.csv has no text column.*--text-column.*it has: Text, label"):
        BY_USUAL_NAMES.found_in(["Text", "label"], "t.csv", need_label=True)
    with pytest.raises(InputError, match=r"t\.csv has no label column.*--label-column.*it has: text, Label"):
        BY_USUAL_NAMES.found_in(["text", "Label"], "t.csv", need_label=True)
    with pytest.raises(InputError, match="pair column needs its text column"):
        Columns(pair="text_pair").found_in(["text", "text_pair", "label"], "t.csv", need_label=True)


def test_a_label_that_is_not_needed_is_found_or_absent() -> None:
    assert BY_USUAL_NAMES.found_in(["text"], "t", need_label=False).label is None
    assert BY_USUAL_NAMES.found_in(["text", "label"], "t", need_label=False).label == "label"


def test_the_column_that_holds_the_text_is_not_taken_for_the_label() -> None:
    """A model trained to read its own answer would look perfect."""
    assert Columns(text="category").found_in(["category", "body"], "t", need_label=False).label is None
    with pytest.raises(InputError, match="label"):
        Columns(text="label", label="label").found_in(["label", "body"], "t", need_label=True)


# Reading


def test_single_texts_are_read_with_their_places(tmp_path: Path) -> None:
    content = 'label,text\nb,"two\nlines"\n\na,one\n'
    source = put(tmp_path, "t.csv", content)
    table = read_examples(source, BY_USUAL_NAMES)
    assert table.texts == ["two\nlines", "one"]
    assert table.labels == ["b", "a"]
    assert table.places == [f"{source}, line 2", f"{source}, line 5"]
    assert len(table) == 2
    assert table.describe() == {
        "name": "t.csv",
        "sha256": hashlib.sha256(content.encode()).hexdigest(),
        "rows": 2,
        "pairs": False,
    }


def test_pairs_are_read_as_pairs(tmp_path: Path) -> None:
    source = put(tmp_path, "t.tsv", 'index\tsentence1\tsentence2\tlabel\n0\t"a\tb"\t1\n')
    table = read_examples(source, BY_USUAL_NAMES)
    assert table.texts == [('"a', 'b"')]
    assert table.labels == ["1"]


def test_labels_are_strings_whatever_the_table_holds(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": label} for label in (1, "1", 2.5, ["x", "y"], [])]
    source = put(tmp_path, "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert read_examples(source, BY_USUAL_NAMES).labels == ["1", "1", "2.5", "x|y", ""]


def test_parquet_labels_and_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    labels = pa.array(["yes", "no"]).dictionary_encode()
    pq.write_table(pa.table({"text": pa.array(["a", "b"], pa.large_string()), "label": labels}), path)
    table = read_examples(str(path), BY_USUAL_NAMES)
    assert (table.texts, table.labels) == (["a", "b"], ["yes", "no"])
    assert table.places == [f"{path}, row 1", f"{path}, row 2"]


def test_a_table_without_labels_is_read_where_none_are_needed(tmp_path: Path) -> None:
    source = put(tmp_path, "t.csv", "text\na\nb\n")
    assert read_examples(source, BY_USUAL_NAMES, need_label=False).labels == []
    assert "--label-column" in refusal(source)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", "text,label\n", "holds no rows"),
        ("t.csv", "text,label\na,x\n,y\n", "line 3: empty text"),
        ("t.csv", 'text,label\n"a\nb",x\n \t,y\n', "line 4: empty text"),
        ("t.csv", "text,label\na,x\nb\0c,y\n", "line 3: the text holds a NUL"),
        ("t.tsv", "text\tlabel\na\tx\n" + "b" * 100_001 + "\ty\n", "line 3: the text has 100,001 bytes"),
        ("t.csv", "text,text_pair,label\na,b,x\na,,y\n", "line 3: a single text among pairs"),
        ("t.jsonl", '{"text": "a", "label": "x"}\n{"label": "y"}\n', "line 2: no text"),
        ("t.jsonl", '{"text": "a", "label": "x"}\n{"text": 3, "label": "y"}\n', "line 2: a text must be a string"),
        ("t.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}\n', "line 2: no label"),
        ("t.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": null}\n', "line 2: no label"),
        ("t.csv", "text,label\na,x\nb,y,z\n", "line 3: 3 fields"),
        ("t.csv", "text,label\na,x\nb,y\0\n", "line 3: the label holds a NUL"),
    ],
)
def test_a_bad_row_ends_the_reading_with_its_line(tmp_path: Path, name: str, content: str, reason: str) -> None:
    source = put(tmp_path, name, content)
    message = refusal(source)
    assert message.startswith(source)
    assert reason in message


@pytest.mark.parametrize("label", [float("nan"), {"name": "x"}, ["x", None]], ids=["nan", "object", "null in list"])
def test_a_label_that_is_none_is_refused_not_spelled_out(tmp_path: Path, label: Any) -> None:
    """`nan`, `None` and `{'name': 'x'}` would become classes of the model."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"text": ["a"], "label": pa.array([label])}), path)
    assert "row 1" in refusal(str(path))


def test_a_listed_label_with_the_separator_in_it_is_refused(tmp_path: Path) -> None:
    """It would fall into two labels."""
    source = put(tmp_path, "t.jsonl", '{"text": "a", "label": ["x", "y|z"]}\n')
    assert "line 1" in refusal(source)


# Pairs and single texts in one kind of file


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("first", [{"text": "a", "text_pair": None}, {"text": "a"}])
def test_a_pair_column_without_a_value_is_none(tmp_path: Path, first: dict[str, Any]) -> None:
    rows = [first, {"text": "b", "text_pair": None}, {"text": "c"}]
    table = read_examples(put(tmp_path, "t.jsonl", lines(*rows)), BY_USUAL_NAMES, need_label=False)
    assert table.texts == ["a", "b", "c"]
    assert not table.describe()["pairs"]


@pytest.mark.parametrize("end", [".csv", ".tsv"])
def test_an_empty_pair_column_is_none_in_text_tables(tmp_path: Path, end: str) -> None:
    text = "text,text_pair,label\na,,x\nb,,y\n".replace(",", "\t" if end == ".tsv" else ",")
    assert read_examples(put(tmp_path, f"t{end}", text), BY_USUAL_NAMES).texts == ["a", "b"]
    named = Columns("text", "text_pair")
    assert "line 2: empty text" in refusal(put(tmp_path, f"n{end}", text), named)


def test_a_pair_column_without_a_value_is_none_in_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    empty = pa.array([None, None], pa.string())
    pq.write_table(pa.table({"premise": ["a", "b"], "hypothesis": empty, "label": ["x", "y"]}), path)
    assert read_examples(str(path), BY_USUAL_NAMES).texts == ["a", "b"]


def test_a_pair_column_with_values_makes_pairs(tmp_path: Path) -> None:
    source = put(tmp_path, "t.jsonl", lines({"text": "a", "text_pair": "b"}, {"text_pair": "d", "text": "c"}))
    assert read_examples(source, BY_USUAL_NAMES, need_label=False).texts == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize("single", [{"text": "a", "text_pair": None}, {"text": "a"}])
def test_pairs_mixed_with_single_texts_are_refused_with_the_row(tmp_path: Path, single: dict[str, Any]) -> None:
    pair = {"text": "b", "text_pair": "c"}
    message = refusal(put(tmp_path, "t.jsonl", lines(single, single, pair)), need_label=False)
    assert "t.jsonl, line 3: a pair among single texts: keep" in message
    message = refusal(put(tmp_path, "u.jsonl", lines(pair, single)), need_label=False)
    assert "u.jsonl, line 2: a single text among pairs (no 'text_pair'): keep" in message


def test_columns_that_were_named_are_read_as_named(tmp_path: Path) -> None:
    source = put(tmp_path, "t.jsonl", lines({"text": "a", "text_pair": None}, {"text": "b", "text_pair": "c"}))
    assert read_examples(source, Columns(text="text"), need_label=False).texts == ["a", "b"]
    assert "line 1: no text" in refusal(source, Columns("text", "text_pair"), need_label=False)


@pytest.mark.parametrize("columns", [BY_USUAL_NAMES, Columns(label="label"), Columns(label="absent")])
def test_labels_left_unread_may_be_anything(tmp_path: Path, columns: Columns) -> None:
    source = put(tmp_path, "t.jsonl", lines({"text": "a", "label": {"name": "x"}}, {"text": "b", "label": None}))
    table = read_examples(source, columns, read_labels=False)
    assert (table.texts, table.labels, table.label_column) == (["a", "b"], [], "label")


# Hub tables


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> datasets.Dataset:
    """Stands for every data set of the hub."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    table = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    return table


@pytest.mark.usefixtures("hub")
def test_a_hub_table_is_read_with_class_names_and_rows() -> None:
    table = read_examples("hub:owner/name", BY_USUAL_NAMES)
    assert (table.texts, table.labels) == (["a", "b", "c"], ["yes", "no", "yes"])
    assert table.places[2] == "hub:owner/name, row 3"
    assert table.describe()["name"] == "hub:owner/name"


def test_a_hub_tables_hash_tells_its_rows_apart(hub: datasets.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_examples("hub:name", BY_USUAL_NAMES).sha256
    assert read_examples("hub:name", BY_USUAL_NAMES).sha256 == first
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub.select([0, 2, 1]))
    assert read_examples("hub:name", BY_USUAL_NAMES).sha256 != first


def test_a_hub_table_without_labels_is_read_where_none_are_needed(
    hub: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: hub.remove_columns("label"))
    table = read_examples("hub:name", BY_USUAL_NAMES, need_label=False)
    assert (table.texts, table.labels) == (["a", "b", "c"], [])


# The task


def find(
    labels: list[str],
    known: tuple[str, ...] = (),
    multi_label: bool = False,
    regression: bool = False,
    positive: str | None = None,
) -> Task:
    return find_task(examples(labels), multi_label=multi_label, regression=regression, known=known, positive=positive)


def test_labels_are_sorted() -> None:
    assert find(["b", "a", "B", "b", "10", "9"]) == Task(SINGLE_LABEL, ("10", "9", "B", "a", "b"))


@given(st.permutations(["a", "b", "c"]))
def test_the_models_order_is_kept_where_it_has_the_same_labels(order: list[str]) -> None:
    assert find(["c", "a", "b", "a"], known=tuple(order)).labels == tuple(order)
    assert find(["c|b", "a"], known=tuple(order), multi_label=True).labels == tuple(order)


@pytest.mark.parametrize("known", [("b", "a", "c"), ("b",), ("LABEL_1", "LABEL_0"), ()])
def test_the_models_order_counts_for_nothing_where_its_labels_differ(known: tuple[str, ...]) -> None:
    assert find(["b", "a"], known=known).labels == ("a", "b")
    assert find(["b", "a|b"], known=known, multi_label=True).labels == ("a", "b")


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ({"10", "-3", "9", "0"}, ("-3", "0", "9", "10")),
        # Equal as numbers, so that the set's own order, which each process draws anew, would decide.
        ({"1", "01", "001"}, ("001", "01", "1")),
        ({"1", "١"}, ("1", "١")),
        ({"0", "-0"}, ("-0", "0")),
        ({"7", "9" * 5000}, ("7", "9" * 5000)),
    ],
)
def test_numbers_are_ordered_by_size_where_each_has_one_spelling(labels: set[str], order: tuple[str, ...]) -> None:
    assert find([*labels]).labels == order


@pytest.mark.parametrize("known", [("other", "spam"), ("spam", "other"), ()])
def test_the_positive_label_is_the_second(known: tuple[str, ...]) -> None:
    for positive, other in (("spam", "other"), ("other", "spam")):
        assert find(["spam", "other", "spam"], known=known, positive=positive).labels == (other, positive)


def test_several_labels_are_collected_from_all_rows() -> None:
    assert find(["b|a", "", " c |a"], multi_label=True) == Task(MULTI_LABEL, ("a", "b", "c"))


def test_a_numbers_task_has_one_output() -> None:
    assert find(["1.5", "-2"], regression=True) == Task(REGRESSION, ("score",))


@pytest.mark.parametrize(
    ("labels", "options", "reason"),
    [
        (["a", "a"], {}, "every row has the label 'a'"),
        (["a", " ", "b"], {}, "line 3: empty label"),
        (["a", ""], {}, "line 3: empty label"),
        (["", " | "], {"multi_label": True}, "no row has a label"),
        (["1", "two"], {"regression": True}, "line 3: the label 'two' is not a number"),
        (["1", "inf"], {"regression": True}, "line 3: the label 'inf' is out of range"),
        (["1", "2"], {"regression": True, "multi_label": True}, "exclude each other"),
        ([str(number / 7) for number in range(1001)], {}, "1001 different labels in 1001 rows"),
        (["a", "b"], {"positive": "c"}, "--positive: 'c' is no label of .*; its labels are 'a' and 'b'"),
        (["a", "b", "c"], {"positive": "c"}, "--positive is for tasks of two labels; .* has 3"),
        (["a|b"], {"positive": "a", "multi_label": True}, "--positive is for tasks of two labels, of which each row"),
        (["1", "2"], {"positive": "1", "regression": True}, "--positive is for tasks of two labels, of which each row"),
    ],
)
def test_labels_that_pose_no_task_are_refused(labels: list[str], options: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        find(labels, **options)


# Where tables lie


@pytest.mark.parametrize("name", ["t.csv.gz", "t.feather", "t.jsonl.zst"])
def test_compressed_and_arrow_tables_are_read(tmp_path: Path, name: str) -> None:
    rows = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]
    path = tmp_path / name
    if name == "t.feather":
        with pa.ipc.new_file(path, pa.Table.from_pylist(rows).schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows))
    else:
        text = "text,label\none,a\ntwo,b\n" if ".csv" in name else "".join(json.dumps(row) + "\n" for row in rows)
        with pa.CompressedOutputStream(path, "gzip" if name.endswith("gz") else "zstd") as stream:
            stream.write(text.encode())
    table = read_examples(str(path), BY_USUAL_NAMES)
    assert (table.texts, table.labels) == (["one", "two"], ["a", "b"])
    assert table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert table.describe()["name"] == name


def test_standard_input_is_no_training_table() -> None:
    assert "can be read only once" in refusal("-")


def test_a_pair_after_rows_of_one_text_is_a_pair() -> None:
    found = Columns().found_in(["text", "label"], "x.jsonl", need_label=False)
    assert found.text_of({"text": "one", "label": "a"}) == "one"
    assert found.text_of({"text": "one", "text_pair": None}) == "one"
    assert found.text_of({"text": "one", "text_pair": "two"}) == ("one", "two")
    named = Columns("text").found_in(["text", "label"], "x.jsonl", need_label=False)
    assert named.text_of({"text": "one", "text_pair": "two"}) == "one"


def test_what_half_a_pair_is_depends_on_the_model() -> None:
    names, half = ["text", "text_pair", "label"], {"text": "one", "text_pair": None}
    found = Columns().found_in(names, "x.jsonl", need_label=False)
    assert found.text_of(half) == ("one", None)
    single = found.of_single_texts()
    assert single.text_of(half) == "one"
    assert single.text_of({"text": "one", "text_pair": "two"}) == ("one", "two")
    assert single.read_from(names) == tuple(names)
    assert single.read_from(["label", "text"]) == ("text", "label")
    named = Columns("text", "text_pair").found_in(names, "x.jsonl", need_label=False)
    assert named.of_single_texts().text_of(half) == ("one", None)
