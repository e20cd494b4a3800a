"""The exported graphs under ONNX Runtime's CUDA provider: `python -m benchmarks.gpu.onnx`, JSON.

The same random classifiers and texts as `benchmarks.gpu.engine`, in float32 as `export` writes them. Every answer is
compared with the PyTorch model's on the CPU. Where ONNX Runtime has no CUDA provider, or `onnx` is missing, the object
has a `reason` and no rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.engine import LONGEST, TOLERANCES, TURNS, Size, make_model, make_texts, padded
from common.devices import open_session
from common.errors import UnderstudyError
from common.tokenization import pack

_WARM_UP = 3


def measure(family: str, size: Size, device: str, batches: Sequence[int]) -> Iterator[dict[str, Any]]:
    """One object a batch size: `family`, `layers`, `texts`, `difference`, `right`, `texts_per_s`.

    Raises:
        WorkFailedError: the device cannot be had, or the graph not be made.
    """
    from distill.models import input_names, prepared
    from export.onnx_graph import export_graph

    model = make_model(family, size)
    names = input_names(model)
    batch_of = {count: pack(make_texts(count)) for count in batches}
    inputs = {count: padded(batch, torch.device("cpu"), left=family == "xlnet") for count, batch in batch_of.items()}
    want = {count: model(**given).logits for count, given in inputs.items()}
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.onnx"
        export_graph(prepared(model), names, path)
        session, used = open_session(path, device)
        for count, given in inputs.items():
            feed = {name: given[name].numpy() for name in names}
            seconds, difference = [], 0.0
            for turn in range(TURNS + _WARM_UP):
                started = time.perf_counter()
                (logits,) = session.run(["logits"], feed)
                if turn >= _WARM_UP:
                    seconds.append(time.perf_counter() - started)
                difference = max(difference, float((torch.from_numpy(logits) - want[count]).abs().max()))
            yield {
                "family": family, "layers": size.layers, "device": used, "texts": count, "difference": difference,
                "right": difference <= TOLERANCES[torch.float32],
                "texts_per_s": round(count / statistics.median(seconds), 1),
            }  # fmt: skip


def main() -> None:
    """Measures every family and depth; ends with 1 where an answer is wrong."""
    parser = argparse.ArgumentParser(description="exported graphs on a GPU")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 8, 32, 128, 256], help="a batch")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    reason = None if find_spec("onnx") and find_spec("onnxscript") else "onnx and onnxscript are not installed"
    if reason is None:
        try:
            with torch.inference_mode():
                for family in ("bert", "xlnet"):
                    for layers in given.layers:
                        for row in measure(family, Size(layers, given.width), given.device, given.texts):
                            rows.append(row)
                            print(json.dumps(row), file=sys.stderr, flush=True)
        except UnderstudyError as error:
            reason = str(error)
    print(json.dumps({"longest": LONGEST, "reason": reason, "rows": rows}))
    if not all(row["right"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
