"""What CUDA graphs do for training: `python -m benchmarks.gpu.training`, JSON.

BERT classifiers of random weights, in steps of fine-tuning: pass, loss, backward pass, clipping, AdamW. With graphs and
without, in turn, over the same batches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.engine import LABELS, VOCABULARY, Size, make_model
from distill.settings import TrainingSettings
from distill.training import optimizer_and_schedule
from distill.training_pass import TrainingPass

TURNS = 10
# Steps of one turn, and turns at the start that are not timed: they record the graphs.
STEPS, WARM_UP = 10, 2


def make_batches(rows: int, length: int, device: torch.device) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Inputs and targets of a turn's steps; half of each text is padding on average, the first has none."""
    draw = np.random.default_rng(0)
    batches = []
    for _ in range(STEPS):
        lengths = draw.integers(1, length + 1, rows)
        lengths[0] = length
        mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        arrays = {"input_ids": draw.integers(5, VOCABULARY, (rows, length)) * mask, "attention_mask": mask}
        inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        batches.append((inputs, torch.from_numpy(draw.integers(0, LABELS, rows)).to(device)))
    return batches


def make_steps(size: Size, device: torch.device, graphs: bool) -> Callable[[dict[str, Tensor], Tensor], None]:
    """A model with its optimizer, as a function that takes one step."""
    model = make_model("bert", size).to(device).train()
    settings = TrainingSettings()
    optimizer, schedule = optimizer_and_schedule(model, settings, 10_000)
    run = TrainingPass(model, states=False, graphs=graphs)
    parameters = list(model.parameters())

    def step(batch: dict[str, Tensor], targets: Tensor) -> None:
        loss = nn.functional.cross_entropy(run(batch).logits.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        torch.stack([loss.detach(), norm]).tolist()
        optimizer.step()
        schedule.step()

    return step


def measure(size: Size, rows: int, length: int, device: torch.device) -> dict[str, Any]:
    """Steps a second with graphs and without."""
    forms = {name: make_steps(size, device, name == "graphs") for name in ("graphs", "without")}
    batches = make_batches(rows, length, device)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(WARM_UP + TURNS):
        for name, step in forms.items():
            started = time.perf_counter()
            for batch, targets in batches:
                step(batch, targets)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - started)
    rates = {name: round(STEPS / statistics.median(values), 1) for name, values in seconds.items()}
    return {
        "layers": size.layers, "width": size.width, "rows": rows, "length": length, "steps_per_s": rates,
        "gain": round(rates["graphs"] / rates["without"], 2),
    }  # fmt: skip


def main(given: Sequence[str] | None = None) -> None:
    """Measures every size and length."""
    parser = argparse.ArgumentParser(description="training steps with CUDA graphs and without")
    parser.add_argument("--layers", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--rows", type=int, default=32, help="a batch")
    parser.add_argument("--length", type=int, nargs="+", default=[24, 128])
    arguments = parser.parse_args(given)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    rows = []
    for layers in arguments.layers:
        for length in arguments.length:
            rows.append(measure(Size(layers, arguments.width), arguments.rows, length, device))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"device": torch.cuda.get_device_name() if cuda else "cpu", "rows": rows}))


if __name__ == "__main__":
    main()
