"""All that a training step changes, and what makes a run the run that it is: what a checkpoint is made of."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.tokenization import TextEncoder
from distill.batches import TokenizedSet
from distill.processes import ALONE, Processes
from distill.record import TrainingRecord

# Of `RunState.state_dict`: 2 since a run has the embeddings of its tables' words alone.
_FORM = 2


@dataclass
class RunState:
    """What the next step starts from.

    A run draws its numbers from torch's generators alone: those of NumPy and Python are no part of this.

    Attributes:
        objective: what the loss learns beside the model.
        order: draws each epoch's batches.
        processes: which train together; they differ in their random states alone.
        epoch: the one under way, from 1.
        batches: how many of its batches are done.
        epoch_order: state of `order` when the epoch began.
        best: the model's weights after its best epoch; empty before the first dev metric.
        started: when this process took the run up, on the monotonic clock.
    """

    model: PreTrainedModel
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    order: torch.Generator
    record: TrainingRecord
    processes: Processes = ALONE
    epoch: int = 1
    batches: int = 0
    epoch_order: Tensor = field(init=False)
    best: dict[str, Tensor] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.epoch_order = self.order.get_state()

    @property
    def step(self) -> int:
        """How many steps were taken."""
        return len(self.record.steps)

    def next_epoch(self) -> None:
        self.epoch += 1
        self.batches = 0
        self.epoch_order = self.order.get_state()

    def state_dict(self) -> dict[str, Any]:
        """For `torch.save`, and to be read without pickle; all processes must ask for it together."""
        return {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
            "batches": self.batches,
            "epoch_order": self.epoch_order,
            "random": self.processes.gathered(random_state(self.model.device)),
            "best": self.best,
            "steps": self.record.steps,
            "epochs": self.record.epochs,
            "best_epoch": self.record.best_epoch,
            "seconds": self.record.wall_time_s + time.monotonic() - self.started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.batches = state["epoch"], state["batches"]
        self.epoch_order, self.best = state["epoch_order"], state["best"]
        self.order.set_state(self.epoch_order)
        set_random_state(state["random"][self.processes.index], self.model.device)
        self.record.steps, self.record.epochs = state["steps"], state["epochs"]
        self.record.best_epoch, self.record.wall_time_s = state["best_epoch"], state["seconds"]


def run_identity(
    record: TrainingRecord,
    model: PreTrainedModel,
    objective: nn.Module,
    train: TokenizedSet,
    dev: TokenizedSet,
    encoder: TextEncoder,
) -> dict[str, Any]:
    """What two runs must have in common for one to go on where the other was killed, under the names that users know.

    Args:
        record, model, objective: before the first step.
        encoder: of both tables, since the same tokens may be padded otherwise.
    """
    return {
        "form of the state": _FORM,
        "method": record.method,
        **record.settings,
        "metric": record.metric,
        "labels": list(record.labels),
        "config": config_sha256(model),
        "teacher": (record.teacher or {}).get("sha256"),
        "teacher's layers": record.layers.get("matched"),
        "starting weights": [module_sha256(model), module_sha256(objective)],
        "tokenizer": encoder.sha256,
        "train": train.sha256,
        "dev": dev.sha256,
        "device": record.device,
        **versions(),
    }


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of the generators that this process draws from."""
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Takes up what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def versions() -> dict[str, str]:
    """Of the packages that decide about a run's bits."""
    return {f"{name}'s version": version(name) for name in ("understudy", "torch", "transformers")}


def config_sha256(model: PreTrainedModel) -> str:
    """Of all of a model's config but where it was read."""
    config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def module_sha256(module: nn.Module) -> str:
    """Of a module's weights and buffers, with their names."""
    digest = hashlib.sha256()
    for name, weight in module.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
