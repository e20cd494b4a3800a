"""The graph that `export` writes against the exporter's plain one: `python -m benchmarks.exported_graph`.

A student of MiniLM's width with random weights, both graphs in turn over batches and lengths, with the session settings
that the engine uses. Prints one line a shape, and JSON with `--json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnxruntime
import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.machine import describe_machine
from common.machine import usable_cores
from export import onnx_graph
from export.onnx_graph import export_graph

BATCHES, LENGTHS = (1, 8, 32), (16, 64, 128)
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def compare(layers: int, width: int, rounds: int, shapes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Median seconds of both graphs at each shape.

    Args:
        layers, width: of the classifier; heads of 32, as MiniLM has them.
        rounds: turns of each graph, after two to warm up.
        shapes: batch and length.

    Returns:
        For each shape `batch`, `length`, `seconds` by graph, `speed_up` over the plain one, `max_difference` of logits.
    """
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 32, intermediate_size=4 * width
    )
    model = BertForSequenceClassification(config).eval()
    with tempfile.TemporaryDirectory() as directory:
        plain, ours = Path(directory) / "plain.onnx", Path(directory) / "ours.onnx"
        export_graph(model, INPUTS, ours)
        with (
            patch.object(onnx_graph, "exported_form", lambda _: contextlib.nullcontext()),
            patch.object(onnx_graph, "improve", lambda _: None),
        ):
            export_graph(model, INPUTS, plain)
        sessions = {"plain": _open(plain), "ours": _open(ours)}
    return [_time(sessions, batch, length, rounds) for batch, length in shapes]


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
    return {
        "batch": batch,
        "length": length,
        "seconds": medians,
        "speed_up": medians["plain"] / medians["ours"],
        "max_difference": float(np.abs(logits["plain"] - logits["ours"]).max()),
    }


def main() -> None:
    """Parses the arguments and prints the comparison."""
    parser = argparse.ArgumentParser(description="export's graph against the exporter's plain one")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    shapes = [(batch, length) for batch in BATCHES for length in LENGTHS]
    results = compare(arguments.layers, arguments.width, arguments.rounds, shapes)
    if arguments.json:
        print(json.dumps({"machine": describe_machine(), "layers": arguments.layers, "results": results}, indent=2))
        return
    for result in results:
        plain, ours = (f"{1e3 * result['seconds'][name]:.2f} ms" for name in ("plain", "ours"))
        print(
            f"batch {result['batch']:2}, length {result['length']:3}: plain {plain}, ours {ours}, "
            f"{result['speed_up']:.2f}x; logits within {result['max_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
