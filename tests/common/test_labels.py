"""Tasks, targets and activations, against torch and scipy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import special

from common.errors import InputError
from common.labels import MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL, Task, activate, split_labels

LOGITS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-30, 30, width=32) | st.floats(allow_nan=False, allow_infinity=False, width=32),
)
TEMPERATURES = st.sampled_from([0.25, 0.5, 1.0, 1.7, 20.0])
EXTREME = np.array([[3e38, -3e38, 0.0], [1e4, 1e4, -1e4], [-3e38, -3e38, -3e38]], np.float32)


@settings(deadline=None, max_examples=80)
@given(logits=LOGITS, temperature=TEMPERATURES)
@example(logits=EXTREME, temperature=0.25)
def test_one_label_is_torchs_softmax(logits: NDArray[np.float32], temperature: float) -> None:
    scores = activate(logits, SINGLE_LABEL, temperature)
    expected = torch.softmax(torch.from_numpy(logits).double() / temperature, -1).numpy()
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(scores, special.softmax(logits.astype(np.float64) / temperature, -1), atol=1e-7)
    np.testing.assert_allclose(scores.sum(-1, dtype=np.float64), 1.0, atol=1e-6)


@settings(deadline=None, max_examples=80)
@given(logits=LOGITS, temperature=TEMPERATURES)
@example(logits=EXTREME, temperature=0.25)
def test_several_labels_are_torchs_sigmoid(logits: NDArray[np.float32], temperature: float) -> None:
    with np.errstate(over="raise", invalid="raise"):
        scores = activate(logits, MULTI_LABEL, temperature)
    expected = torch.sigmoid(torch.from_numpy(logits).double() / temperature).numpy()
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(scores, special.expit(logits.astype(np.float64) / temperature), atol=1e-7)


@settings(deadline=None)
@given(logits=LOGITS, temperature=TEMPERATURES)
def test_a_number_is_left_as_it_is(logits: NDArray[np.float32], temperature: float) -> None:
    np.testing.assert_array_equal(activate(logits, REGRESSION, temperature), logits)


def test_a_label_at_probability_one_half_is_exactly_one_half() -> None:
    """The threshold of a multi-label head is `>=`: a logit of zero must not fall under it by rounding."""
    assert activate(np.zeros((1, 1), np.float32), MULTI_LABEL, 1.3)[0, 0] == 0.5


def test_half_precision_logits_are_computed_in_float64() -> None:
    logits = np.array([[60000.0, 59968.0]], np.float16)
    expected = special.softmax(logits.astype(np.float64), -1)
    np.testing.assert_allclose(activate(logits, SINGLE_LABEL), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", PROBLEM_TYPES)
def test_no_rows_give_no_scores(kind: str) -> None:
    assert activate(np.zeros((0, 3), np.float32), kind).shape == (0, 3)


# Targets

PLACES = ["t.csv, line 2", "t.csv, line 3", "t.csv, line 5"]


def test_one_labels_targets_are_positions() -> None:
    targets = Task(SINGLE_LABEL, ("b", "a")).targets(["a", "b", "a"], PLACES)
    assert targets.dtype == np.int64
    assert targets.tolist() == [1, 0, 1]


@pytest.mark.parametrize("label", ["a|b", " a", "a\t", "|", ""])
def test_a_label_that_no_table_could_hold_is_refused(label: str) -> None:
    with pytest.raises(InputError, match="no table could hold the label"):
        Task(MULTI_LABEL, ("b", label)).check_labels()
    Task(SINGLE_LABEL, ("b", label)).check_labels()


def test_several_labels_targets_are_rows_of_zeros_and_ones() -> None:
    targets = Task(MULTI_LABEL, ("c", "a", "b")).targets(["a|b", "", " c | a |a|"], PLACES)
    assert targets.dtype == np.float32
    assert targets.tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]


def test_of_a_single_label_one_says_that_it_holds_and_zero_that_it_does_not() -> None:
    task = Task.from_config({"num_labels": 1})
    np.testing.assert_array_equal(task.targets(["1", "0", "LABEL_0", ""], [""] * 4), [[1], [0], [1], [0]])
    with pytest.raises(
        InputError, match=r"f.csv, line 2: the label '3' .*\(LABEL_0\).*\"problem_type\": \"regression\""
    ):
        task.targets(["3"], ["f.csv, line 2"])
    named = Task(MULTI_LABEL, ("0",))
    np.testing.assert_array_equal(named.targets(["0", ""], [""] * 2), [[1], [0]])


@pytest.mark.filterwarnings("error")
def test_a_numbers_targets_are_numbers() -> None:
    targets = Task(REGRESSION, ("score",)).targets(["1", "-2.5", " 3e-2 "], PLACES)
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, [1, -2.5, 0.03])


@pytest.mark.parametrize(
    ("task", "bad"),
    [
        (Task(SINGLE_LABEL, ("a", "b")), "c"),
        (Task(SINGLE_LABEL, ("a", "b")), "A"),
        (Task(SINGLE_LABEL, ("a", "b")), ""),
        (Task(MULTI_LABEL, ("a", "b")), "a|c"),
        (Task(REGRESSION, ("score",)), "a"),
        (Task(REGRESSION, ("score",)), ""),
        (Task(REGRESSION, ("score",)), "nan"),
        (Task(REGRESSION, ("score",)), "-inf"),
    ],
)
def test_a_bad_label_is_refused_with_its_place_and_itself(task: Task, bad: str) -> None:
    good = "1" if task.problem_type == REGRESSION else "a"
    with pytest.raises(InputError, match=r"^t\.csv, line 3: ") as raised:
        task.targets([good, bad, good], PLACES)
    assert f"'{bad.split('|')[-1]}'" in str(raised.value)


def test_a_number_too_large_for_the_targets_precision_is_refused() -> None:
    with pytest.raises(InputError, match=r"^t\.csv, line 3: .*1e39"):
        Task(REGRESSION, ("score",)).targets(["1", "1e39", "2"], PLACES)


def test_the_error_of_an_unknown_label_is_one_line_of_moderate_length() -> None:
    """The wrong column taken for the label puts whole messages into it."""
    task = Task(SINGLE_LABEL, tuple(f"label number {number}" for number in range(150)))
    with pytest.raises(InputError) as raised:
        task.targets(["Dear all,\nmy card is gone.\n" + "Please help. " * 400], ["t.csv, line 2"])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


@given(st.lists(st.text(st.characters(exclude_characters="|", exclude_categories=["Cs"]), min_size=1), max_size=5))
def test_split_labels_takes_apart_what_a_bar_joined(labels: list[str]) -> None:
    stripped = [label.strip() for label in labels if label.strip()]
    assert split_labels("|".join(labels)) == stripped
    assert split_labels(" | ".join(labels)) == stripped


# Tasks


@pytest.mark.parametrize("labels", [(), ("a", "a"), ("a", "b", "a")])
def test_labels_must_be_distinct_and_there(labels: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="distinct"):
        Task(SINGLE_LABEL, labels)


def test_an_unknown_problem_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=f"'ranking'.*{SINGLE_LABEL}.*{MULTI_LABEL}.*{REGRESSION}"):
        Task("ranking", ("a", "b"))


@pytest.mark.parametrize(
    ("config", "kind", "labels"),
    [
        ({"id2label": {"1": "b", "0": "a"}}, SINGLE_LABEL, ("a", "b")),
        ({"id2label": {0: "a", 1: "b"}, "problem_type": MULTI_LABEL}, MULTI_LABEL, ("a", "b")),
        ({"id2label": {str(n): f"l{n}" for n in range(12)}}, SINGLE_LABEL, tuple(f"l{n}" for n in range(12))),
        ({"id2label": {"0": "score"}, "problem_type": REGRESSION}, REGRESSION, ("score",)),
        ({"id2label": {"0": "LABEL_0"}}, MULTI_LABEL, ("LABEL_0",)),
        ({"id2label": {"0": 1, "1": 2}, "problem_type": None}, SINGLE_LABEL, ("1", "2")),
        ({"num_labels": 3}, SINGLE_LABEL, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({}, SINGLE_LABEL, ("LABEL_0", "LABEL_1")),
    ],
)
def test_task_of_a_config(config: dict[str, object], kind: str, labels: tuple[str, ...]) -> None:
    assert Task.from_config(config) == Task(kind, labels)


@pytest.mark.parametrize(
    "id2label",
    [{"0": "a", "2": "b"}, {"1": "a", "2": "b"}, {"first": "a", "second": "b"}, ["a", "b"]],
    ids=["gap", "from one", "no numbers", "list"],
)
def test_a_config_whose_labels_have_no_places_is_refused(id2label: object) -> None:
    """Names made up for the gaps would be wrong labels, silently."""
    with pytest.raises(InputError, match="id2label"):
        Task.from_config({"id2label": id2label})
