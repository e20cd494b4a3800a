"""The ranges that static quantization gives its activations, measured on training rows."""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from common.devices import open_session
from common.errors import InputError
from common.examples import Examples
from common.progress import progress
from common.tokenization import Text, TextEncoder
from export.onnx_file import save_graph
from export.quantization import linear_layers

ROWS = 512
# The outermost values of an activation would widen the steps of all others.
_PERCENT = 99.99
# Of each text and layer, so that memory stays small.
_VALUES = 4096


def activation_ranges(
    graph: Path, encoder: TextEncoder, train: Examples, dev: Collection[Text], directory: Path, seed: int
) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Runs up to `ROWS` training texts through the float32 graph.

    Args:
        dev: texts that judge the result, and are left out where they stand among the training rows too.
        directory: for the graph that shows its activations.

    Returns:
        Least and greatest input of each layer, by its name, without the outermost 0.01 %; and what the manifest says of
        the rows.

    Raises:
        InputError: no training text is left.
    """
    known = set(dev)
    texts = [text for text in train.texts if text not in known]
    if not texts:
        raise InputError(f"{train.source} holds no text that is not in the dev table: ranges need training rows")
    draw = np.random.default_rng(seed)
    chosen = random.Random(seed).sample(texts, min(ROWS, len(texts)))
    model = ir.load(graph)
    inputs = {layer.name: str(layer.input.name) for layer in linear_layers(model)}
    for value in {layer.input for layer in linear_layers(model)}:
        model.graph.outputs.append(value)
    path = directory / "activations.onnx"
    save_graph(model, path)
    session, _ = open_session(path, "cpu")
    outputs = sorted(set(inputs.values()))
    names = [entry.name for entry in session.get_inputs()]
    seen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in outputs}
    with progress("measuring ranges", len(chosen), "texts") as advance:
        for text in encoder.encode(chosen):
            batch = encoder.pad([text])  # alone, so that no padding is measured
            for name, values in zip(outputs, session.run(outputs, {name: batch[name] for name in names}), strict=True):
                flat = values.ravel()
                seen[name].append(draw.choice(flat, _VALUES) if flat.size > _VALUES else flat)
            advance(1)
    limits = {name: _limits(np.concatenate(values)) for name, values in seen.items()}
    rows = {key: value for key, value in train.describe().items() if key in ("name", "sha256")}
    return {layer: limits[name] for layer, name in inputs.items()}, {**rows, "rows": len(chosen)}


def _limits(values: NDArray[np.float32]) -> tuple[float, float]:
    low, high = np.percentile(values, [100 - _PERCENT, _PERCENT])
    return float(low), float(high)
