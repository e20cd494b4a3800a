"""FLOPs are those counted by hand, and the peak is of a product that is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.bench import roofline
from benchmarks.bench.report.schema import Roofline as RooflineSchema
from benchmarks.bench.roofline import MatrixProduct, flops_by_length, measure_peak
from common.errors import WorkFailedError
from export.bundle import Bundle

# Of the bundles in conftest.py.
WIDTH, INNER, LABELS = 32, 64, 3


def by_hand(layers: int, tokens: int) -> int:
    """A BERT classifier whose last layer computes keys and values of all tokens, and the rest for the first alone."""
    projections = 4 * 2 * tokens * WIDTH**2  # queries, keys, values, output
    attention = 2 * 2 * tokens * tokens * WIDTH  # scores, and their mean of the values; all heads together
    feed_forward = 2 * 2 * tokens * WIDTH * INNER
    last = (2 * tokens + 2) * 2 * WIDTH**2 + 2 * 2 * tokens * WIDTH + 2 * 2 * WIDTH * INNER
    head = 2 * WIDTH**2 + 2 * WIDTH * LABELS
    return (layers - 1) * (projections + attention + feed_forward) + last + head


@pytest.mark.parametrize("layers", [1, 2])
def test_flops_are_those_counted_by_hand(layers: int, student: Path, teacher: Path) -> None:
    bundle = Bundle.load(student if layers == 1 else teacher)
    counted = flops_by_length(bundle, [5, 17, 5, 64])
    assert counted == {tokens: by_hand(layers, tokens) for tokens in (5, 17, 64)}


def test_the_reference_agrees_with_pytorchs_counter(teacher: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(teacher.parent / "model", attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(1, 10, dtype=torch.long))
    # It computes the last layer whole.
    whole_layer = by_hand(3, 10) - by_hand(2, 10)
    assert counter.get_total_flops() == 2 * whole_layer + 2 * WIDTH * (WIDTH + LABELS)


def test_flops_of_every_family_grow_with_length(weights_bundle: Path) -> None:
    counted = flops_by_length(Bundle.load(weights_bundle), [8, 16])
    assert 1.9 < counted[16] / counted[8] < 4


def test_an_operator_whose_products_are_not_known_is_no_silent_zero(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {"op_name": "Einsum", "input_type_shape": [{"float": [2, 2]}], "output_type_shape": [{"float": [2, 2]}]}
    monkeypatch.setattr(roofline, "_profile", lambda *_: [[node]])
    with pytest.raises(WorkFailedError, match="Einsum cannot be counted"):
        flops_by_length(Bundle.load(student), [4])


def test_a_graph_that_does_not_run_is_one_line(student: Path) -> None:
    bundle = Bundle.load(student)
    bundle.manifest.inputs.append("attention_mask")
    bundle.manifest.inputs.remove("input_ids")
    with pytest.raises(WorkFailedError, match="does not run on the CPU") as caught:
        flops_by_length(bundle, [4])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "inputs", "output", "expected"),
    [
        ("MatMul", [[2, 3, 4]], [2, 3, 5], 2 * 2 * 3 * 4 * 5),
        ("Gemm", [[3, 4], [5]], [3, 5], 2 * 3 * 4 * 5),
        ("MatMulIntegerToFloat", [[3, 4], [], [5], []], [3, 5], 2 * 3 * 4 * 5),
        # One query against three keys.
        ("MultiHeadAttention", [[2, 1, 8], [2, 3, 8], [2, 3, 8], [2, 3]], [2, 1, 8], 2 * 2 * 1 * 3 * 8 * 2),
        ("Attention", [[1, 3, 8], [24]], [1, 3, 8], 3 * 2 * 3 * 8 * 8 + 2 * 2 * 3 * 3 * 8),
        ("LayerNormalization", [[3, 4]], [3, 4], 0),
    ],
)
def test_products_by_operator(kind: str, inputs: list[list[int]], output: list[int], expected: int) -> None:
    node = {
        "op_name": kind,
        "input_type_shape": [{"float": shape} for shape in inputs],
        "output_type_shape": [{"float": output}],
    }
    assert roofline._node_flops(node) == expected


def test_the_measured_product_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SIZE", 144)  # of whose sizes some take two bytes
    model = onnx.load_from_string(roofline._product_graph())
    onnx.checker.check_model(model, full_check=True)
    (constant,) = map(onnx.numpy_helper.to_array, model.graph.initializer)
    product = MatrixProduct(1)
    assert product.run() > 0
    (a,) = product._inputs.values()
    assert a.shape == constant.shape == (144, 144)
    np.testing.assert_allclose(product._session.run(None, product._inputs)[0], a @ constant, rtol=1e-4, atol=1e-4)


def test_the_peak_is_the_fastest_of_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_SIZE", 16)
    speeds: Callable[[], float] = iter(range(1, 1000)).__next__
    monkeypatch.setattr(MatrixProduct, "run", lambda _self: float(speeds()))
    found = measure_peak(1)
    # The first one warms up; then come the rounds.
    assert found.peak.value == 1 + roofline._PRODUCTS * (roofline._ROUNDS + 1) / 2
    RooflineSchema.model_validate(found.as_dict())
    assert found.as_dict()["threads"] == 1
