"""The op and a whole XLNet classifier in ONNX Runtime against PyTorch, at batches and lengths not exported with."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from transformers import XLNetConfig, XLNetForSequenceClassification

from kernels.onnx_translation import TRANSLATIONS
from kernels.relative_attention import relative_attention
from kernels.xlnet import fuse

# The exporter's remarks on the names of shared axes and on its own deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

# The axes of each argument that are dynamic: batch and lengths; with memory, qlen and klen apart.
AXES: dict[str, dict[int, str]] = {
    "q": {0: "batch", 2: "qlen"},
    "k": {0: "batch", 2: "klen"},
    "v": {0: "batch", 2: "klen"},
    "query_segments": {0: "batch", 1: "qlen"},
    "key_segments": {0: "batch", 1: "klen"},
}
CASES: dict[str, dict[str, Any]] = {
    "all terms, left padding": {"mask": "left", "see_self": True},
    "plain": {"positions": False, "segments": False, "biases": False},
    "pairs, no biases": {"mask": "pairs", "segments": False, "biases": False, "see_self": True},
    "two encodings": {"groups": 2, "mask": "keys"},
    "float16": {"mask": "left", "see_self": True, "dtype": torch.float16},
}


class _Op(nn.Module):
    def __init__(self, names: list[str], see_self: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.names, self.options = names, {"see_self": see_self, "dropout": dropout}

    def forward(self, values: list[Tensor]) -> Tensor:
        return relative_attention(**dict(zip(self.names, values, strict=True)), **self.options)


def export(module: nn.Module, arguments: tuple[Any, ...], shapes: Any) -> onnxruntime.InferenceSession:
    program = torch.onnx.export(
        module.eval(),
        arguments,
        dynamic_shapes=shapes,
        dynamo=True,
        custom_translation_table=TRANSLATIONS,
        verbose=False,
    )
    assert {node.domain for node in program.model.graph} <= {"", "ai.onnx"}
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, values: list[Tensor]) -> np.ndarray:
    return session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), values, strict=True)})[0]


@pytest.mark.parametrize("case", CASES)
def test_op_agrees_at_other_shapes(case, inputs_of):
    options = {"dtype": torch.float32} | CASES[case]
    see_self = options.pop("see_self", False)
    inputs = inputs_of(batch=4, qlen=5, klen=8, **options)
    batch, qlen, klen = torch.export.Dim("half") * 2, torch.export.Dim("qlen"), torch.export.Dim("klen")
    dims = {"batch": batch, "qlen": qlen, "klen": klen}
    axes = AXES | {"r": {inputs["r"].ndim - 2: "both"}} if "r" in inputs else AXES
    axes = axes | {
        "mask": {0: "batch", 1: "klen"} if options.get("mask") != "pairs" else {0: "batch", 1: "qlen", 2: "klen"}
    }
    shapes = [
        {axis: torch.export.Dim.AUTO if name == "both" else dims[name] for axis, name in axes.get(argument, {}).items()}
        for argument in inputs
    ]
    module = _Op(list(inputs), see_self)
    session = export(module, (list(inputs.values()),), (shapes,))
    tolerance = 1e-5 if options["dtype"] == torch.float32 else 5e-3
    for sizes in ({}, {"batch": 2, "qlen": 1, "klen": 2}, {"batch": 6, "qlen": 12, "klen": 12, "seed": 1}):
        values = list(inputs_of(**({"batch": 4, "qlen": 5, "klen": 8} | options | sizes)).values())
        np.testing.assert_allclose(run(session, values), module(values).numpy(), rtol=0, atol=tolerance)


def test_a_query_that_sees_no_key_gets_the_mean(inputs_of):
    inputs = inputs_of(qlen=3, klen=6, mask="keys", dtype=torch.float32)
    inputs["mask"][0] = True
    module = _Op(list(inputs), see_self=False)
    got = run(export(module, (list(inputs.values()),), None), list(inputs.values()))
    np.testing.assert_allclose(got[0], inputs["v"][0].mean(1, keepdim=True).expand(2, 3, 4).numpy(), atol=1e-6)


def test_dropout_is_refused(inputs_of):
    inputs = inputs_of(positions=False, segments=False, biases=False, dtype=torch.float32)
    with pytest.raises(torch.onnx.OnnxExporterError, match="export the model in eval mode"):
        export(_Op(list(inputs), see_self=False, dropout=0.5), (list(inputs.values()),), None)


class _Classifier(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        return self.model(
            input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, use_mems=False
        ).logits


def test_whole_classifier_agrees_with_the_stock_model():
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=60, d_model=24, n_layer=2, n_head=3, d_inner=32, num_labels=3, initializer_range=0.3, clamp_len=9
    )
    stock = XLNetForSequenceClassification(config).eval()
    fused = fuse(XLNetForSequenceClassification(config).eval())
    fused.load_state_dict(stock.state_dict())

    def texts(batch: int, length: int) -> list[Tensor]:
        pads = torch.randint(length, (batch, 1))
        keep = (torch.arange(length)[None] >= pads).long()
        return [torch.randint(60, (batch, length)), keep, torch.randint(3, (batch, length))]

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    session = export(_Classifier(fused), tuple(texts(3, 7)), ({0: batch, 1: length},) * 3)
    for shape in ((3, 7), (1, 1), (5, 40), (2, 128)):
        values = texts(*shape)
        with torch.no_grad():
            want = _Classifier(stock)(*values).numpy()
        np.testing.assert_allclose(run(session, values), want, rtol=0, atol=1e-5)
