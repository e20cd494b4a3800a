"""A transformers classifier as an ONNX graph with dynamic batch and length."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.errors import InputError, WorkFailedError, first_line
from export.exported_form import exported_form
from export.graph_passes import improve
from export.onnx_file import save_graph
from export.packing import pack
from export.settings import OPSET
from kernels.onnx_translation import TRANSLATIONS

# The translations of this project's ops are written in it.
_LEAST_OPSET = 18


class _Logits(nn.Module):
    """The model with positional inputs and the logits alone as output, which is what the graph's signature is."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=True).logits
        return logits.float()


def export_graph(model: PreTrainedModel, names: tuple[str, ...], path: Path, opset: int = OPSET) -> None:
    """Writes the graph: int64 inputs `[batch, length]` in the order of `names`, output `logits` `[batch, labels]`.

    A float16 model has float32 logits all the same.

    Raises:
        InputError: the exporter or the installed ONNX Runtime does not know the opset.
        WorkFailedError: torch cannot export the model, or the ONNX checker refuses the result.
    """
    check_opset(opset)
    model = model.eval()
    example = tuple(_example(name) for name in names)
    batch, length = torch.export.Dim("batch_size"), torch.export.Dim("sequence_length")
    try:
        with _quiet(), torch.inference_mode(), exported_form(model):
            program = torch.onnx.export(
                _Logits(model, names),
                example,
                dynamo=True,
                opset_version=opset,
                input_names=list(names),
                output_names=["logits"],
                custom_translation_table=TRANSLATIONS,
                dynamic_shapes=(tuple({0: batch, 1: length} for _ in names),),
                verbose=False,
            )
            assert program is not None
            improve(program.model)
            pack(program.model.graph)
            save_graph(program.model, path)
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the exporter's failures share no base class
        raise WorkFailedError(f"{type(model).__name__} cannot be exported to ONNX: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause; the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def check_opset(opset: int) -> None:
    """
    Raises:
        InputError: the exporter or the installed ONNX Runtime does not know the opset.
    """
    # The translations are written in opset 18; torch tells the highest nowhere in public.
    highest = next(
        number for number in range(torch.onnx._constants.ONNX_MAX_OPSET, _LEAST_OPSET - 1, -1) if _runs(number)
    )
    if not _LEAST_OPSET <= opset <= highest:
        raise InputError(f"opset must lie between {_LEAST_OPSET} and {highest} here, not {opset}")


def check_exportable(config: Any, name: str) -> None:
    """
    Args:
        name: of the model, for the message.

    Raises:
        InputError: the model's answer to a text depends on the text's place in the batch.
    """
    if config.model_type == "xlnet" and config.bi_data:
        raise InputError(
            f"{name} has bi_data on, with which XLNet reads the second half of each batch backwards: it cannot be "
            'exported; where it was trained without, set "bi_data" to false in its config.json'
        )


def _runs(opset: int) -> bool:
    """Whether the installed ONNX Runtime opens a graph of this opset."""
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [value], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:  # the runtime's errors share no base class
        return False
    return True


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
