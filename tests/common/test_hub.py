"""`hub:NAME[/CONFIG]`, with the datasets library's loading replaced: no network."""

import sys
from collections.abc import Callable
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from common.errors import InputError
from common.hub import read_hub_table

Call = tuple[str, str | None, str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What was asked of the library; `answer` decides what it gives."""
    return answer(monkeypatch, lambda *_: TABLE)


def answer(monkeypatch: pytest.MonkeyPatch, give: Callable[[str, str | None], Dataset]) -> list[Call]:
    asked: list[Call] = []

    def load_dataset(path: str, name: str | None = None, *, split: str) -> Dataset:
        asked.append((path, name, split))
        return give(path, name)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


TABLE = Dataset.from_dict(
    {"text": ["a", "b", None], "label": [1, 0, None], "number": [7, 8, 9]},
    features=Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"]), "number": Value("int32")}),
)


@pytest.mark.usefixtures("calls")
def test_rows_are_numbered_and_classes_are_named() -> None:
    table = read_hub_table("hub:name", "train")
    assert table.columns == ["text", "label", "number"]
    assert table.classes == {"label": ("no", "yes")}
    assert list(table.rows()) == [
        (1, {"text": "a", "label": "yes", "number": 7}),
        (2, {"text": "b", "label": "no", "number": 8}),
        (3, {"text": None, "label": None, "number": 9}),
    ]


def test_classes_in_a_list_are_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multi-label data sets (go_emotions) have them so."""
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["joy", "anger", "fear"]))})
    table = Dataset.from_dict({"text": ["a", "b"], "labels": [[2, 0], []]}, features=features)
    answer(monkeypatch, lambda *_: table)
    assert [row["labels"] for _, row in read_hub_table("hub:name", "train").rows()] == [["fear", "joy"], []]


def test_a_hidden_class_is_no_class_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """GLUE's test splits have the label -1, which must not become the last name."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    answer(monkeypatch, lambda *_: Dataset.from_dict({"text": ["a"], "label": [-1]}, features=features))
    assert [row["label"] for _, row in read_hub_table("hub:name", "test").rows()] not in (["no"], ["yes"])


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("hub:imdb", ("imdb", None, "dev")),
        ("hub:owner/name", ("owner/name", None, "dev")),
        ("hub:owner/name/config", ("owner/name", "config", "dev")),
    ],
)
def test_the_name_is_taken_apart(calls: list[Call], source: str, call: Call) -> None:
    read_hub_table(source, "dev")
    assert calls == [call]


def test_two_parts_are_a_name_and_its_config_where_no_owner_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(path: str, _: str | None) -> Dataset:
        if path == "glue/sst2":
            raise FileNotFoundError("no such data set")
        return TABLE

    asked = answer(monkeypatch, give)
    assert len(list(read_hub_table("hub:glue/sst2", "train").rows())) == 3
    assert asked == [("glue/sst2", None, "train"), ("glue", "sst2", "train")]


@pytest.mark.parametrize("source", ["hub:", "hub:/", "hub:a/", "hub:/a", "hub:a//b", "hub:a/b/c/d"])
def test_a_name_of_another_form_is_refused_without_asking(calls: list[Call], source: str) -> None:
    with pytest.raises(InputError, match=r"hub:NAME\[/CONFIG\]"):
        read_hub_table(source, "train")
    assert calls == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("first line\nsecond line"), "first line"),
        (ConnectionError("\n  no network  \nmore"), "no network"),
        (RuntimeError(), "RuntimeError"),
        (KeyError("split"), "split"),
    ],
)
@pytest.mark.parametrize("source", ["hub:name", "hub:owner/name", "hub:owner/name/config"])
def test_a_failing_load_is_one_line(
    monkeypatch: pytest.MonkeyPatch, source: str, error: Exception, reason: str
) -> None:
    def give(*_: Any) -> Dataset:
        raise error

    answer(monkeypatch, give)
    with pytest.raises(InputError, match=f"^{source}: .*'train'.*{reason}") as raised:
        read_hub_table(source, "train")
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 2


def test_the_first_readings_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(path: str, _: str | None) -> Dataset:
        raise ValueError(f"cannot have {path}")

    answer(monkeypatch, give)
    with pytest.raises(InputError, match="cannot have owner/name"):
        read_hub_table("hub:owner/name", "train")


def test_an_interruption_is_no_failing_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def give(*_: Any) -> Dataset:
        raise KeyboardInterrupt

    answer(monkeypatch, give)
    with pytest.raises(KeyboardInterrupt):
        read_hub_table("hub:name", "train")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"\.\[train\]"):
        read_hub_table("hub:name", "train")
