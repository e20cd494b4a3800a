"""What each precision costs and gains on real texts: `python -m benchmarks.precision MODEL --dev D --train T`.

The graphs of one classifier: the exporter's plain one in float32, that one in int8 as ONNX Runtime's `quantize_dynamic`
makes it (what is usually shipped), and the project's own in float32, in int8 with weights of 8 and of 7 bits, and in
static int8. None passes a gate here: all are measured, in turn. Prints a line for each, and JSON with `--json`.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnxruntime.quantization import quantize_dynamic

from benchmarks.exported_graph import export_plain
from benchmarks.machine import describe_machine
from common.examples import BY_USUAL_NAMES, read_examples
from common.labels import Task
from distill.models import input_names, load_classifier, load_config, load_tokenizer, make_encoder
from distill.record import read_record
from distill.sources import find_model
from export.activation_ranges import activation_ranges
from export.dev_rows import DevRows, dev_rows
from export.exported_graph import BATCH_SIZE, ExportedGraph
from export.onnx_graph import export_graph
from export.quantization import quantize
from export.served import Served

# Texts that are timed; every dev text counts for quality.
TIMED_TEXTS = 256
PLAIN, USUAL, OURS = "plain fp32", "usual dynamic int8", "fp32"


def compare(model_dir: Path, dev: str, train: str, rounds: int, seed: int = 0) -> list[dict[str, Any]]:
    """Quality, size and speed of each graph.

    Args:
        model_dir: a classifier's directory.
        dev, train: tables of labelled texts; static ranges come from `train`.
        rounds: turns of each graph, after one to warm up.

    Returns:
        For each graph `name`, `bytes`, `metric` and its `value` in batches of like length, `value_alone`; `batch_shift`
        and `flips`, of scores and labels between a text alone and in a batch; `agreement` with plain float32;
        `texts_per_s` in batches of 32 and `one_text_ms`, medians of the rounds; `speed_up` over the plain graph in
        batches, and `one_text_speed_up`.
    """
    source = find_model(str(model_dir))
    config = load_config(source)
    task = Task.from_config(config.to_dict())
    tokenizer = load_tokenizer(source)
    encoder = make_encoder(tokenizer, config, tokenizer.model_max_length)
    examples = read_examples(dev, BY_USUAL_NAMES, split="validation")
    metric = (read_record(source.path) or {}).get("metric")
    rows = dev_rows(examples, task, encoder, metric, calibrated=False, seed=seed)
    model = load_classifier(source, config).eval()
    names = input_names(model)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        paths = {PLAIN: directory / "plain.onnx", OURS: directory / "ours.onnx"}
        export_plain(model, names, paths[PLAIN])
        export_graph(model, names, paths[OURS])
        paths[USUAL] = _usual(paths[PLAIN], directory)
        train_rows = read_examples(train, BY_USUAL_NAMES)
        ranges, _ = activation_ranges(paths[OURS], encoder, train_rows, examples.texts, directory, seed)
        kinds: dict[str, dict[str, Any]] = {
            "int8": {"weight_bits": 8},
            "int8, 7-bit weights": {"weight_bits": 7},
            "int8-static": {"weight_bits": 8, "ranges": ranges},
        }
        for kind, options in kinds.items():
            quantized = ir.load(paths[OURS])
            quantize(quantized, **options)
            paths[kind] = directory / f"{kind}.onnx"
            ir.save(quantized, paths[kind])
        graphs = {kind: ExportedGraph(path, encoder, "cpu") for kind, path in paths.items()}
        return _measure(graphs, rows, rounds)


def _usual(plain: Path, directory: Path) -> Path:
    proto = onnx.load(plain)
    del proto.graph.value_info[:]  # the shapes that the exporter leaves stand in the quantizer's way
    onnx.save(proto, directory / "bare.onnx")
    path = directory / "usual.onnx"
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a step that the exporter's graphs do not survive
    try:
        options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(directory / "bare.onnx", path, per_channel=True, extra_options=options)
    finally:
        root.setLevel(level)
    return path


def _measure(graphs: dict[str, ExportedGraph], rows: DevRows, rounds: int) -> list[dict[str, Any]]:
    step = max(1, len(rows.encoded) // TIMED_TEXTS)
    texts = rows.encoded[::step][:TIMED_TEXTS]
    seconds: dict[tuple[str, int], list[float]] = {(name, size): [] for name in graphs for size in (1, BATCH_SIZE)}
    for turn in range(rounds + 1):
        for (name, size), times in seconds.items():
            started = time.perf_counter()
            graphs[name].all_logits(texts, size)
            if turn:
                times.append((time.perf_counter() - started) / len(texts))
    each = {key: statistics.median(times) for key, times in seconds.items()}
    plain, served = graphs[PLAIN].all_logits(rows.encoded), Served(rows.task)
    results = []
    for name, graph in graphs.items():
        logits, alone = graph.all_logits(rows.encoded), graph.all_logits(rows.encoded, 1)
        results.append(
            {
                "name": name,
                "bytes": graph.bytes,
                "metric": rows.metric,
                "value": rows.value(logits, served),
                "value_alone": rows.value(alone, served),
                "batch_shift": served.shift(alone, logits),
                "flips": served.flips(alone, logits),
                "agreement": 1 - served.flips(plain, logits) / len(plain),
                "texts_per_s": 1 / each[name, BATCH_SIZE],
                "one_text_ms": 1e3 * each[name, 1],
                "speed_up": each[PLAIN, BATCH_SIZE] / each[name, BATCH_SIZE],
                "one_text_speed_up": each[PLAIN, 1] / each[name, 1],
            }
        )
    return results


def main() -> None:
    """Parses the arguments and prints the comparison."""
    parser = argparse.ArgumentParser(description="precisions of one classifier's graph")
    parser.add_argument("model", type=Path)
    parser.add_argument("--dev", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    results = compare(given.model, given.dev, given.train, given.rounds)
    if given.json:
        data = {"model": given.model.name, "dev": Path(given.dev).parent.name}
        print(json.dumps({"machine": describe_machine(), **data, "results": results}, indent=2))
        return
    for row in results:
        quality = f"{row['metric']} {row['value']:.4f} (alone {row['value_alone']:.4f}"
        print(
            f"{row['name']}: {row['bytes'] / 1e6:.1f} MB, {quality}, "
            f"shift {row['batch_shift']:.0e}, {row['flips']} flips), {100 * row['agreement']:.1f} % as plain, "
            f"{row['texts_per_s']:,.0f} texts/s ({row['speed_up']:.2f}x), one text {row['one_text_ms']:.2f} ms "
            f"({row['one_text_speed_up']:.2f}x)"
        )


if __name__ == "__main__":
    main()
