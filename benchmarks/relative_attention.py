"""XLNet with the project's attention against the stock model: `python -m benchmarks.relative_attention`.

Both run the same random weights in turn, on CUDA where there is one and on the CPU elsewhere, so the ratio holds even
where the machine is noisy. Prints one line a shape, and JSON with `--json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import torch
from transformers import XLNetConfig, XLNetForSequenceClassification

from benchmarks.machine import describe_machine
from kernels.xlnet import fuse


def compare(layers: int, batch: int, length: int, rounds: int) -> dict[str, Any]:
    """Median seconds of one forward pass of a base-size classifier, stock and fused.

    Args:
        layers: of 768 units and 12 heads.
        rounds: turns of each model, after two to warm up.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    config = XLNetConfig(n_layer=layers, d_model=768, n_head=12, d_inner=3072, vocab_size=1000, use_mems_eval=False)
    stock = XLNetForSequenceClassification(config).to(device).eval()
    fused = copy.deepcopy(stock)
    fuse(fused)
    inputs = {
        "input_ids": torch.randint(10, 1000, (batch, length), device=device),
        "attention_mask": torch.ones(batch, length, dtype=torch.int64, device=device),
    }
    seconds: dict[str, list[float]] = {"stock": [], "fused": []}
    difference = 0.0
    with torch.inference_mode():
        for turn in range(rounds + 2):
            logits = {}
            for name, model in (("stock", stock), ("fused", fused)):
                started = time.perf_counter()
                logits[name] = model(**inputs).logits
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if turn >= 2:
                    seconds[name].append(time.perf_counter() - started)
            difference = max(difference, float((logits["stock"] - logits["fused"]).abs().max()))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "layers": layers,
        "batch": batch,
        "length": length,
        "seconds": medians,
        "speed_up": medians["stock"] / medians["fused"],
        "max_difference": difference,
    }


def main() -> None:
    """Parses the arguments and prints the comparison."""
    parser = argparse.ArgumentParser(description="XLNet with relative_attention against the stock model")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, nargs="+", default=[128])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = [compare(arguments.layers, arguments.batch, length, arguments.rounds) for length in arguments.length]
    if arguments.json:
        print(json.dumps({"machine": describe_machine(), "results": results}, indent=2))
        return
    for result in results:
        print(
            f"{result['layers']} layers, batch {result['batch']}, length {result['length']} on {result['device']}: "
            f"stock {1e3 * result['seconds']['stock']:.0f} ms, fused {1e3 * result['seconds']['fused']:.0f} ms, "
            f"{result['speed_up']:.2f}x; logits within {result['max_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
