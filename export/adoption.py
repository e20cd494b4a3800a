"""`adopt`: a classifier that another tool exported to ONNX, into a verified bundle."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from transformers import AutoConfig, PreTrainedModel

from common.errors import InputError, WorkFailedError, first_line
from common.examples import BY_USUAL_NAMES, Columns, read_examples
from common.files import check_output, sha256, staged_directory
from common.labels import MULTI_LABEL, REGRESSION, Task
from common.progress import say
from common.tokenization import model_max_length
from distill.models import load_classifier, load_config, load_tokenizer, make_encoder, save_tokenizer
from distill.sources import Source, find_model
from export.bundle import MODEL_FILE, Manifest
from export.contents import describe_graph
from export.dev_rows import dev_rows
from export.exported_graph import ExportedGraph
from export.finishing import finish_bundle, say_result
from export.foreign_graph import check_signature, count_parameters, opset_of
from export.neighbours import TRIED_SHIFT, neighbours_shift
from export.onnx_file import save_graph
from export.served import Served
from export.settings import FP16, FP32, INT8, ExportSettings
from export.task import bundle_task
from export.verification import check_texts, verify

_USUAL = ExportSettings()
# Integers of 4 bits lie in other tools' graphs alone.
_LOWEST_FIRST = ("int4", INT8, FP16, FP32)


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
    task = bundle_task(config, directory.resolve().name)
    examples = read_examples(checked_on, columns, split="validation", need_label=settings.labelled)
    check_texts(examples)
    source = Source(directory.resolve().name, directory, sha256(path))
    # Optimum leaves out a tokenizer whose class it does not know.
    bare = model_dir is not None and not (directory / "tokenizer.json").is_file()
    tokenizer = load_tokenizer(find_model(str(model_dir)) if bare else source)
    limit = model_max_length({"model_max_length": tokenizer.model_max_length}, config.to_dict())
    encoder = make_encoder(tokenizer, config, limit)
    rows = None
    if settings.labelled:
        calibrated, seed = settings.calibrate, settings.seed
        rows = dev_rows(examples, task, encoder, settings.metric, calibrated=calibrated, seed=seed)
    graph_model = _load(path)
    inputs = check_signature(graph_model, path, len(task.labels))
    reference = None if model_dir is None else _reference(model_dir, config, path)
    say(f"Adopting {path}")
    with staged_directory(output, overwrite=overwrite) as staging:
        target = staging / MODEL_FILE
        save_graph(graph_model, target)
        contents = describe_graph(target)
        precision = _precision(contents)
        try:
            graph = ExportedGraph(target, encoder, settings.device, precision)
        except InputError as error:  # it names the copy
            raise InputError(str(error).replace(str(target), str(path))) from None
        verification = verify(graph, encoder, examples, task, settings.seed, model=reference, precision=precision)
        encoded = rows.encoded if rows is not None else encoder.encode(examples.texts)
        logits = graph.all_logits(encoded, doing="measuring")
        _refuse_probabilities(logits, task, path)
        calibration = None if rows is None else rows.calibration(logits)
        served = Served.by(task, calibration)
        shift, flips = neighbours_shift(graph, encoded, served, settings.seed)
        if shift > TRIED_SHIFT or flips:
            raise WorkFailedError(
                f"the exported model's answers depend on a text's neighbours: scores alone and in batches differ by "
                f"up to {shift:.2e} (allowed: {TRIED_SHIFT:g}), {flips} labels: no bundle is written"
            )
        verification = replace(verification, batch_shift=max(verification.batch_shift, shift))
        config.save_pretrained(staging)
        save_tokenizer(tokenizer, staging, encoder.max_length)
        manifest = Manifest(
            name=output.resolve().name,
            layers=config.num_hidden_layers,
            parameters=count_parameters(graph_model),
            inputs=inputs,
            max_length=encoder.max_length,
            precision=precision,
            opset=opset_of(graph_model),
            made_from={
                "model": {"name": source.name, "sha256": source.sha256},
                "exported_by": f"{graph_model.producer_name or 'unknown'} {graph_model.producer_version or ''}".strip(),
            },
            measured={} if rows is None else rows.measured(logits, served, precision),
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
    say_result(manifest, task, output)
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
    """The graph with all its tensors in memory, those of other files too."""
    try:
        onnx.checker.check_model(str(path))
        model = ir.load(path)
        ir.external_data.load_to_model(model)
        return model
    except Exception as error:  # the parser's and the checker's errors share no base class
        raise InputError(f"{path} is no valid ONNX model: {first_line(error)}") from None


def _reference(directory: Path, config: Any, path: Path) -> PreTrainedModel:
    """The PyTorch model that the graph came from."""
    origin = find_model(str(directory))
    its = load_config(origin)
    for name in ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_labels"):
        if getattr(its, name, None) != getattr(config, name, None):
            raise InputError(
                f"{directory} is not the model that {path} came from: its {name} is {getattr(its, name, None)}, "
                f"not {getattr(config, name, None)}"
            )
    return load_classifier(origin, its).eval()


def _refuse_probabilities(logits: NDArray[np.float32], task: Task, path: Path) -> None:
    """
    Raises:
        InputError: the outputs are scores already, and would go through softmax or sigmoid a second time.
    """
    if task.problem_type == REGRESSION or logits.min() < 0 or logits.max() > 1:
        return
    if task.problem_type == MULTI_LABEL or np.abs(logits.sum(axis=-1) - 1).max() < 1e-3:
        raise InputError(f"{path} gives probabilities, not logits: export it without its softmax or sigmoid")


def _precision(contents: dict[str, Any]) -> str:
    """By the lowest precision among the layers, or among the operators where no layer shows.

    Weights of another kind, as of bfloat16 or 4-bit floats, are called unknown rather than what they are not.
    """
    found = set(contents["layers"].values())
    if any("Integer" in name or "QLinear" in name or "Quantize" in name for name in contents["operators"]):
        found.add(INT8)
    if not found <= set(_LOWEST_FIRST):
        return "unknown"
    return next((precision for precision in _LOWEST_FIRST if precision in found), FP32)
