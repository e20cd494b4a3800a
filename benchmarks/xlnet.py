"""A base-size XLNet classifier in its three forms: `python -m benchmarks.xlnet`.

The stock model, the same with the project's attention (`kernels.xlnet.fuse`), and on the CPU its ONNX graph as a bundle
holds it. All have the same random weights and take turns, on CUDA where there is one and on the CPU elsewhere, so the
ratios hold even where the machine is noisy. Prints one line a shape, and JSON with `--json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, XLNetConfig, XLNetForSequenceClassification

from benchmarks.gpu.machine import describe
from kernels.xlnet import freeze_positions, fuse

Inputs = dict[str, Tensor]
WARM_UPS = 2


def compare(layers: int, batch: int, length: int, rounds: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Median seconds of one forward pass of each form.

    Args:
        layers: of 768 units and 12 heads.
        rounds: turns of each form, after two to warm up.
        dtype: of the weights; the ONNX graph is measured in float32 on the CPU only.

    Returns:
        `seconds` and, over the stock model's, `speed_up`, by form; `max_difference` of any form's logits from the
        stock model's; and what was measured.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    config = XLNetConfig(n_layer=layers, d_model=768, n_head=12, d_inner=3072, vocab_size=1000, use_mems_eval=False)
    stock = XLNetForSequenceClassification(config).to(device, dtype).eval()
    inputs = {
        "input_ids": torch.randint(10, 1000, (batch, length), device=device),
        "attention_mask": torch.ones(batch, length, dtype=torch.int64, device=device),
        "token_type_ids": torch.zeros(batch, length, dtype=torch.int64, device=device),
    }
    inputs["token_type_ids"][:, length // 2 :] = 1
    fused = fuse(copy.deepcopy(stock))
    frozen = freeze_positions(copy.deepcopy(fused), length)
    forms = {"stock": _torch_form(stock), "fused": _torch_form(fused), "fused, positions frozen": _torch_form(frozen)}
    with tempfile.TemporaryDirectory() as directory:
        if device.type == "cpu" and dtype == torch.float32:
            forms["onnx"] = _onnx_form(fused, tuple(inputs), Path(directory))
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        difference = 0.0
        with torch.inference_mode():
            for turn in range(rounds + WARM_UPS):
                logits = {}
                for name, form in forms.items():
                    started = time.perf_counter()
                    logits[name] = form(inputs)
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    if turn >= WARM_UPS:
                        seconds[name].append(time.perf_counter() - started)
                difference = max(difference, *(float((x - logits["stock"]).abs().max()) for x in logits.values()))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": str(dtype).removeprefix("torch."),
        "layers": layers,
        "batch": batch,
        "length": length,
        "seconds": medians,
        "speed_up": {name: medians["stock"] / median for name, median in medians.items()},
        "max_difference": difference,
    }


def _torch_form(model: PreTrainedModel) -> Callable[[Inputs], Tensor]:
    return lambda inputs: model(**inputs).logits


def _onnx_form(model: PreTrainedModel, names: tuple[str, ...], directory: Path) -> Callable[[Inputs], Tensor]:
    # Both are needed on a CPU only.
    import onnxruntime

    from export.onnx_graph import export_graph

    export_graph(model, names, directory / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in the engine
    session = onnxruntime.InferenceSession(directory / "model.onnx", options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(["logits"], {k: v.numpy() for k, v in inputs.items()})[0])


def main() -> None:
    """Parses the arguments and prints the comparison."""
    parser = argparse.ArgumentParser(description="a base-size XLNet classifier in its three forms")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, nargs="+", default=[128])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    results = [
        compare(arguments.layers, arguments.batch, length, arguments.rounds, dtype) for length in arguments.length
    ]
    if arguments.json:
        print(json.dumps({"machine": describe(), "results": results}, indent=2))
        return
    for result in results:
        told = ", ".join(
            f"{name} {1e3 * seconds:.0f} ms ({result['speed_up'][name]:.2f}x)"
            for name, seconds in result["seconds"].items()
        )
        print(
            f"{result['layers']} layers, {result['dtype']}, batch {result['batch']}, length {result['length']} on "
            f"{result['device']}: {told}; logits within {result['max_difference']:.1e}"
        )


if __name__ == "__main__":
    main()
