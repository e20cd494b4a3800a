"""What the torch engine does with a GPU: `python -m benchmarks.gpu.engine`, JSON.

Classifiers of random weights, BERT and XLNet of 3 and 6 layers, over batches of texts of mixed length: transformers'
own model over padded batches, the packed classifier, and the packed classifier in CUDA graphs, in turn. Every form has
to give the logits that transformers' model gives on the CPU in float32.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedModel, XLNetConfig

from common.tokenization import Encoded, Packed, pack
from kernels.packed_classifier import PackedClassifier
from serve.cuda_graphs import GraphedClassifier

VOCABULARY = 30_000
LABELS = 77
LONGEST = 128
TURNS = 20
# The greatest difference of a logit from the float32 model on the CPU that still counts as the same answer.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2}


@dataclass(frozen=True)
class Size:
    """A classifier's: MiniLM's by default."""

    layers: int
    width: int = 384
    heads: int = 12


def make_model(family: str, size: Size) -> PreTrainedModel:
    """A classifier of random weights, wide enough spread for its answers to differ from text to text."""
    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "num_labels": LABELS, "initializer_range": 0.05}
    if family == "xlnet":
        config: Any = XLNetConfig(
            d_model=size.width, n_layer=size.layers, n_head=size.heads, d_inner=4 * size.width, use_mems_eval=False,
            **common,
        )  # fmt: skip
    else:
        config = BertConfig(
            hidden_size=size.width, num_hidden_layers=size.layers, num_attention_heads=size.heads,
            intermediate_size=4 * size.width, **common,
        )  # fmt: skip
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).eval()
    return model


def make_texts(count: int) -> list[Encoded]:
    """Random tokens, as many a text as short messages have: 24 in the middle, a few at the limit."""
    rng = np.random.default_rng(count)
    lengths = np.clip(rng.lognormal(np.log(24), 0.6, count).astype(int), 3, LONGEST)
    return [Encoded(rng.integers(5, VOCABULARY, n).tolist(), [0] * n, False) for n in lengths]


def padded(batch: Packed, device: torch.device, *, left: bool) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `token_type_ids`, `[batch, longest]`."""
    lengths = np.diff(batch.cu_seqlens)
    columns = np.arange(batch.max_length)[None]
    inside = columns >= batch.max_length - lengths[:, None] if left else columns < lengths[:, None]
    named = {"input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids}
    values = {name: np.zeros(inside.shape, np.int64) for name in named}
    for name, value in named.items():
        values[name][inside] = value
    values["attention_mask"] = inside.astype(np.int64)
    return {name: torch.from_numpy(value).to(device) for name, value in values.items()}


def measure(
    family: str, size: Size, dtype: torch.dtype, device: torch.device, batches: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """One object a batch size: `texts`, `tokens`, `difference` from the CPU's float32, `texts_per_s` of each form."""
    reference = make_model(family, size)
    stock = copy.deepcopy(reference).to(device, dtype)
    classifier: Any = PackedClassifier(copy.deepcopy(reference).to(device, dtype), LONGEST)
    graphed: Any = GraphedClassifier(classifier, device) if device.type == "cuda" else None
    left = family == "xlnet"
    for count in batches:
        batch = pack(make_texts(count))
        want = reference(**padded(batch, torch.device("cpu"), left=left)).logits
        rows = [torch.from_numpy(x).to(device) for x in (batch.input_ids, batch.token_type_ids, batch.cu_seqlens)]
        square = padded(batch, device, left=left)
        forms: dict[str, Callable[[], Tensor]] = {
            "padded": partial(_padded_logits, stock, square),
            "packed": partial(classifier, *rows, batch.max_length),
        }
        if graphed is not None:
            forms["graphs"] = partial(graphed, *rows, batch.max_length)
        differences, rates = _in_turn(forms, want, count, device)
        yield {
            "family": family, "layers": size.layers, "dtype": str(dtype).removeprefix("torch."), "texts": count,
            "tokens": len(batch.input_ids), "padded_tokens": count * batch.max_length, "difference": differences,
            "right": max(differences.values()) <= TOLERANCES[dtype], "texts_per_s": rates,
        }  # fmt: skip


def _padded_logits(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    logits: Tensor = model(**inputs).logits
    return logits


def _in_turn(
    forms: dict[str, Callable[[], Tensor]], want: Tensor, count: int, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    differences = dict.fromkeys(forms, 0.0)
    for turn in range(TURNS + 3):
        for name, form in forms.items():
            started = time.perf_counter()
            logits = form()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 3:  # the first calls compile, and record the graph
                seconds[name].append(time.perf_counter() - started)
            differences[name] = max(differences[name], float((logits.float().cpu() - want).abs().max()))
    return differences, {name: round(count / statistics.median(values), 1) for name, values in seconds.items()}


def main() -> None:
    """Measures every family, depth and precision; ends with 1 where an answer is wrong."""
    parser = argparse.ArgumentParser(description="the torch engine's forms on a GPU")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--texts", type=int, nargs="+", default=[1, 8, 32, 128, 256], help="a batch")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    rows = []
    with torch.inference_mode():
        for dtype in (torch.float16, torch.float32) if cuda else (torch.float32,):
            for family in ("bert", "xlnet"):
                for layers in arguments.layers:
                    for row in measure(family, Size(layers, arguments.width), dtype, device, arguments.texts):
                        rows.append(row)
                        print(json.dumps(row), file=sys.stderr, flush=True)
    print(json.dumps({"device": torch.cuda.get_device_name() if cuda else "cpu", "rows": rows}))
    if not all(row["right"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
