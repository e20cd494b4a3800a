"""The graph that `export` writes against other exports of the same weights: `python -m benchmarks.exported_graph`.

A student of MiniLM's width with random weights, all graphs in turn over batches and lengths, with the session settings
that the engine uses. The others are the exporter's plain graph and, with `--optimum`, what Optimum's command writes:
plain, and optimized by ONNX Runtime's fusions (`--optimize O2`). Prints one line a shape, and JSON with `--json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from benchmarks.machine import describe_machine
from common.errors import WorkFailedError
from common.machine import usable_cores
from export import onnx_graph
from export.onnx_graph import export_graph

BATCHES, LENGTHS = (1, 8, 32), (16, 64, 128)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def compare(
    layers: int, width: int, rounds: int, shapes: list[tuple[int, int]], optimum: str | None = None
) -> list[dict[str, Any]]:
    """Median seconds of each graph at each shape.

    Args:
        layers, width: of the classifier; heads of 32, as MiniLM has them.
        rounds: turns of each graph, after two to warm up.
        shapes: batch and length.
        optimum: interpreter of an environment with Optimum, whose two graphs are then compared too.

    Returns:
        For each shape `batch`, `length` and `seconds` by graph; and by graph other than ours `speed_up`, its seconds
        over ours, and `max_difference` of its logits from ours.
    """
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 32, intermediate_size=4 * width
    )
    model = BertForSequenceClassification(config).eval()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        graphs = {"plain": directory / "plain.onnx", "ours": directory / "ours.onnx"}
        export_graph(model, INPUTS, graphs["ours"])
        export_plain(model, INPUTS, graphs["plain"])
        if optimum:
            disable_progress_bar()
            model.save_pretrained(directory / "model")
            for label, options in (("optimum", []), ("optimum-o2", ["--optimize", "O2"])):
                graphs[label] = _export_with_optimum(optimum, directory / "model", directory / label, options)
        sessions = {label: _open(path) for label, path in graphs.items()}
    return [_time(sessions, batch, length, rounds) for batch, length in shapes]


def export_plain(model: PreTrainedModel, names: tuple[str, ...], path: Path) -> None:
    """Writes the graph as the exporter leaves it."""
    with (
        patch.object(onnx_graph, "exported_form", lambda _: contextlib.nullcontext()),
        patch.object(onnx_graph, "improve", lambda _: None),
    ):
        export_graph(model, names, path)


def _export_with_optimum(python: str, model: Path, output: Path, options: list[str]) -> Path:
    command = [python, "-m", "optimum.commands.optimum_cli", "export", "onnx", "--task", "text-classification"]
    done = subprocess.run([*command, "--model", model, *options, output], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkFailedError(f"Optimum cannot export the model: {done.stderr.strip()[-500:]}")
    return output / "model.onnx"


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _time(sessions: dict[str, onnxruntime.InferenceSession], batch: int, length: int, rounds: int) -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(5, 30_000, (batch, length))
    mask = np.ones_like(ids)
    if batch > 1:
        mask[0, length // 2 :] = 0  # some padding, as every batch of texts has
    given = dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    logits = {}
    for turn in range(rounds + 2):
        for name, session in sessions.items():
            started = time.perf_counter()
            logits[name] = session.run(["logits"], given)[0]
            if turn >= 2:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    others = [name for name in sessions if name != "ours"]
    return {
        "batch": batch,
        "length": length,
        "seconds": medians,
        "speed_up": {name: medians[name] / medians["ours"] for name in others},
        "max_difference": {name: float(np.abs(logits[name] - logits["ours"]).max()) for name in others},
    }


def main() -> None:
    """Parses the arguments and prints the comparison."""
    parser = argparse.ArgumentParser(description="export's graph against other exports of the same weights")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--optimum", metavar="PYTHON", help="interpreter of an environment with Optimum's exporter")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    shapes = [(batch, length) for batch in BATCHES for length in LENGTHS]
    results = compare(arguments.layers, arguments.width, arguments.rounds, shapes, arguments.optimum)
    if arguments.json:
        print(json.dumps({"machine": describe_machine(), "layers": arguments.layers, "results": results}, indent=2))
        return
    for result in results:
        seconds = result["seconds"]
        others = ", ".join(
            f"{name} {1e3 * seconds[name]:.2f} ms ({ratio:.2f}x)" for name, ratio in result["speed_up"].items()
        )
        print(
            f"batch {result['batch']:2}, length {result['length']:3}: ours {1e3 * seconds['ours']:.2f} ms; {others}; "
            f"logits within {max(result['max_difference'].values()):.1e}"
        )


if __name__ == "__main__":
    main()
