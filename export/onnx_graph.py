"""A transformers classifier as an ONNX graph with dynamic batch and length."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.errors import WorkFailedError
from export.exported_form import exported_form
from export.graph_passes import improve
from kernels.onnx_translation import TRANSLATIONS

OPSET = 20


class _Logits(nn.Module):
    """The model with positional inputs and the logits alone as output, which is what the graph's signature is."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=True).logits
        return logits


def export_graph(model: PreTrainedModel, names: tuple[str, ...], path: Path) -> None:
    """Writes the graph: int64 inputs `[batch, length]` in the order of `names`, output `logits` `[batch, labels]`.

    Raises:
        WorkFailedError: torch cannot export the model, or the ONNX checker refuses the result.
    """
    model = model.eval()
    example = tuple(_example(name) for name in names)
    batch, length = torch.export.Dim("batch_size"), torch.export.Dim("sequence_length")
    try:
        with _quiet(), torch.inference_mode(), exported_form(model):
            program = torch.onnx.export(
                _Logits(model, names),
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(names),
                output_names=["logits"],
                custom_translation_table=TRANSLATIONS,
                dynamic_shapes=(tuple({0: batch, 1: length} for _ in names),),
                verbose=False,
            )
            assert program is not None
            improve(program.model)
            program.save(str(path))
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the exporter's failures share no base class
        raise WorkFailedError(f"{type(model).__name__} cannot be exported to ONNX: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause; the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _example(name: str) -> Tensor:
    # Sizes other than 0 and 1, which the exporter would take for constants.
    shape = (2, 9)
    return torch.zeros(shape, dtype=torch.int64) if name == "token_type_ids" else torch.ones(shape, dtype=torch.int64)


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """The exporter narrates its steps; the command says what matters."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        nowhere = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
