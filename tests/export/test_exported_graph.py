"""A graph that cannot be run on a batch says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from common.errors import WorkFailedError
from common.tokenization import TextEncoder
from export.exported_graph import ExportedGraph
from export.graph_passes import constant


def test_a_size_baked_in_is_told_in_one_line(bundle: Path, tmp_path: Path) -> None:
    model = ir.load(bundle / "model.onnx")
    graph, logits = model.graph, model.graph.outputs[0]
    added = ir.Node("", "Add", [logits, constant(graph, "of_two_texts", np.zeros((2, 3), np.float32))])
    graph.append(added)
    result = added.outputs[0]
    logits.name, result.name, result.type, result.shape = "before", "logits", logits.type, logits.shape
    graph.outputs[0] = result
    ir.save(model, tmp_path / "model.onnx")
    encoder = TextEncoder.load(bundle)
    exported = ExportedGraph(tmp_path / "model.onnx", encoder, "cpu")
    texts = encoder.encode(["where is my parcel", "hello", "it is late"])
    assert exported.logits(texts[:2]).shape == (2, 3)
    longest = max(text.tokens for text in texts)
    with pytest.raises(WorkFailedError, match=f"cannot be run on a batch of 3 by {longest} tokens: .") as caught:
        exported.logits(texts)
    assert "\n" not in str(caught.value)
