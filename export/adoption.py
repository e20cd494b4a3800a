"""`adopt`: a classifier that another tool exported to ONNX, into a verified bundle."""

from __future__ import annotations

import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
from transformers import AutoConfig

from common.errors import InputError, first_line
from common.examples import BY_USUAL_NAMES, Columns, read_examples
from common.files import check_output, sha256, staged_directory
from common.labels import Task
from common.progress import say
from common.tokenization import model_max_length
from distill.models import load_classifier, load_config, load_tokenizer, make_encoder, save_tokenizer, set_task
from distill.sources import Source, find_model
from export.bundle import MODEL_FILE, Manifest
from export.calibration import calibrate
from export.contents import describe_graph
from export.dev_rows import dev_rows
from export.exported_graph import ExportedGraph
from export.finishing import finish_bundle, say_result
from export.onnx_file import save_graph
from export.settings import FP16, FP32, INT8, ExportSettings
from export.verification import verify

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_USUAL = ExportSettings()


def adopt(
    directory: Path,
    output: Path,
    *,
    checked_on: str,
    file: str | None = None,
    model_dir: Path | None = None,
    settings: ExportSettings = _USUAL,
    columns: Columns = BY_USUAL_NAMES,
    overwrite: bool = False,
) -> Manifest:
    """Writes a verified bundle of a directory with an ONNX file, a config and a fast tokenizer, as Optimum leaves it.

    The graph stays as it is, but for the name of its output. It is compared with the PyTorch model where there is one,
    and in any case with itself: a text must get the same logits alone and in a batch.

    Args:
        checked_on: a table of at least 64 real texts; with `settings.labelled`, of dev rows with the task's labels.
        file: which ONNX file; needed where there are several and none is model.onnx.
        model_dir: the PyTorch classifier that the graph came from.
        settings: of these, `labelled`, `calibrate`, `metric`, `device` and `seed` are used.

    Raises:
        InputError: the directory lacks a file, the ONNX file is none, or its inputs and outputs are no text
            classifier's.
        WorkFailedError: the graph does not answer as the model does, or a text's answer depends on its neighbours.
    """
    check_output(output, directory=True, overwrite=overwrite)
    path = _onnx_file(directory, file)
    config = _config(directory)
    task = Task.from_config(config.to_dict())
    set_task(config, task)
    examples = read_examples(checked_on, columns, split="validation", need_label=settings.labelled)
    source = Source(directory.resolve().name, directory, sha256(path))
    # Optimum leaves out a tokenizer whose class it does not know.
    bare = model_dir is not None and not (directory / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(find_model(str(model_dir)) if bare else source)
    limit = model_max_length({"model_max_length": tokenizer.model_max_length}, config.to_dict())
    encoder = make_encoder(tokenizer, config, limit)
    rows = dev_rows(examples, task, encoder, settings.metric) if settings.labelled else None
    graph_model = _load(path)
    inputs = _check_signature(graph_model, path)
    reference = None
    if model_dir is not None:
        origin = find_model(str(model_dir))
        reference = load_classifier(origin, load_config(origin)).eval()
    say(f"Adopting {path}")
    with staged_directory(output, overwrite=overwrite) as staging:
        target = staging / MODEL_FILE
        save_graph(graph_model, target)
        contents = describe_graph(target)
        precision = _precision(contents)
        graph = ExportedGraph(target, encoder, settings.device, precision)
        verification = verify(graph, encoder, examples, task, settings.seed, model=reference, precision=precision)
        measured, calibration = {}, None
        if rows is not None:
            logits = graph.all_logits(rows.encoded, doing="measuring")
            value = rows.value(logits)
            measured = {"metric": rows.metric, "split": rows.data["name"], "value": value, "precision": precision}
            calibration = (
                calibrate(logits, rows.targets, task, rows.data, settings.seed) if settings.calibrate else None
            )
        config.save_pretrained(staging)
        save_tokenizer(tokenizer, staging, encoder.max_length)
        manifest = Manifest(
            name=output.resolve().name,
            layers=config.num_hidden_layers,
            parameters=_parameters(graph_model),
            inputs=inputs,
            max_length=encoder.max_length,
            precision=precision,
            opset=graph_model.opset_imports[""],
            made_from={
                "model": {"name": source.name, "sha256": source.sha256},
                "exported_by": f"{graph_model.producer_name or 'unknown'} {graph_model.producer_version or ''}".strip(),
            },
            measured=measured,
            verification=verification,
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in ("understudy", "transformers", "onnx")},
                "onnxruntime": onnxruntime.__version__,
            },
            calibration=calibration,
            contents=contents,
            not_run=["cuda"] if precision == FP16 and graph.device != "cuda" else [],
        )
        finish_bundle(manifest, task, staging)
    say_result(manifest, output)
    return manifest


def _onnx_file(directory: Path, name: str | None) -> Path:
    if not directory.is_dir():
        raise InputError(f"{directory}: no such directory")
    if name is not None:
        if not (directory / name).is_file():
            raise InputError(f"{directory / name}: no such file")
        return directory / name
    found = sorted(directory.glob("*.onnx")) or sorted(directory.glob("onnx/*.onnx"))
    usual = [path for path in found if path.name == MODEL_FILE]
    if len(usual or found) == 1:
        return (usual or found)[0]
    if not found:
        raise InputError(f"{directory} holds no ONNX file")
    names = ", ".join(str(path.relative_to(directory)) for path in found)
    raise InputError(f"{directory} holds several ONNX files, name one with --file: {names}")


def _config(directory: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a file that is not what it says
        raise InputError(f"{directory}: config.json cannot be read: {first_line(error)}") from None


def _load(path: Path) -> ir.Model:
    try:
        onnx.checker.check_model(str(path))
        return ir.load(path)
    except Exception as error:  # the parser's and the checker's errors share no base class
        raise InputError(f"{path} is no valid ONNX model: {first_line(error)}") from None


def _check_signature(model: ir.Model, path: Path) -> list[str]:
    """The names of the graph's inputs; its one output is called `logits` from here on."""
    names = [str(value.name) for value in model.graph.inputs]
    if not {"input_ids", "attention_mask"} <= set(names) or not set(names) <= set(_INPUTS):
        raise InputError(f"{path} reads {', '.join(names)}; a text classifier reads {', '.join(_INPUTS)} (or no types)")
    for value in model.graph.inputs:
        if value.dtype != ir.DataType.INT64 or value.shape is None or len(value.shape) != 2:
            raise InputError(f"{path}: the input {value.name} must be int64 [batch, length]")
        if any(isinstance(size, int) for size in value.shape):
            sizes = ", ".join(map(str, value.shape))
            raise InputError(f"{path}: the input {value.name} has a fixed size [{sizes}]: export it with dynamic axes")
    outputs = model.graph.outputs
    by_name = [value for value in outputs if value.name == "logits"]
    if not by_name and len(outputs) == 1:
        outputs[0].name = "logits"
    elif not by_name:
        raise InputError(f"{path} has no output 'logits' but {', '.join(str(value.name) for value in outputs)}")
    return names


def _precision(contents: dict[str, Any]) -> str:
    """By the lowest precision among the layers, or among the operators where no layer shows."""
    found = set(contents["layers"].values())
    integers = any("Integer" in name or "QLinear" in name or "Quantize" in name for name in contents["operators"])
    return INT8 if INT8 in found or integers else FP16 if FP16 in found else FP32


def _parameters(model: ir.Model) -> int:
    """Numbers in the graph's tensors, without shapes and indices."""
    whole = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    return sum(math.prod(tensor.shape.numpy()) for tensor in tensors if tensor.dtype not in whole)
