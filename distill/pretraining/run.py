"""The steps of a pretraining run, and all that the next one starts from."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import DivergedError
from common.progress import progress, say
from distill.checkpoint import Checkpoint
from distill.pretraining.objective import PretrainingObjective, Sequences
from distill.pretraining.record import ENTRIES, PretrainingRecord
from distill.pretraining.settings import PretrainingSettings
from distill.pretraining.stream import SegmentStream
from distill.processes import Processes
from distill.run_state import random_state, set_random_state
from distill.training import optimizer_and_schedule

# Lines that tell of the losses, of a run of any length.
_LINES = 10


class PretrainingRun:
    """One run; of several processes that train together, each has one, and they call the same in the same order.

    Each process reads the whole stream and trains on every `count`-th row, always the same ones: what an objective
    keeps of a row's document is in the process that has the row.
    """

    def __init__(
        self,
        objective: PretrainingObjective,
        stream: SegmentStream,
        settings: PretrainingSettings,
        record: PretrainingRecord,
        processes: Processes,
        device: torch.device,
    ):
        """
        Args:
            objective: on `device`.
            record: filled on the way.
        """
        self.objective = objective
        self.stream = stream
        self.settings = settings
        self.record = record
        self.processes = processes
        self.device = device
        self.step = 0
        self.parameters = list(objective.parameters())
        self.optimizer, self.schedule = optimizer_and_schedule(objective, settings, settings.steps)
        # Processes that drew alike would mask and drop out the same places in their rows.
        self.draw = torch.Generator().manual_seed(settings.seed + processes.index)
        torch.manual_seed(settings.seed + processes.index)
        self._sums: dict[str, float] = {}
        self._started = time.monotonic()

    def train(self, checkpoint: Checkpoint) -> None:
        """All steps that are left.

        Raises:
            InputError: a file of the corpus can no longer be read.
            DivergedError: the loss or the gradient is no longer a finite number.
        """
        self.objective.train()
        steps, tokens_before = self.settings.steps, self.record.tokens
        with progress("pretraining", steps, "steps") as advance:
            advance(completed=self.step, total=steps)
            while self.step < steps:
                loss = self._take_step(checkpoint)
                rate = (self.record.tokens - tokens_before) / (time.monotonic() - self._started)
                advance(1, note=f"loss {loss:.4f}, {rate:,.0f} tokens/s")
                if self.step % math.ceil(steps / _LINES) == 0 or self.step == steps:
                    self._say_losses(rate)
                if self.processes.any(self.processes.is_first and checkpoint.due, self.device):
                    state = self.state_dict()
                    if self.processes.is_first:
                        checkpoint.save(self.step, state)
        self.record.epochs = self.stream.documents.epoch
        self.record.wall_time_s += time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        """For `torch.save`, and to be read without pickle; all processes must ask for it together."""
        own = {
            "random": random_state(self.device),
            "draw": self.draw.get_state(),
            "objective": {name: value.cpu() for name, value in self.objective.state().items()},
        }
        return {
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "stream": self.stream.state(),
            "processes": self.processes.gathered(own),
            "step": self.step,
            "losses": self.record.losses,
            "sums": self._sums,
            "tokens": self.record.tokens,
            "seconds": self.record.wall_time_s + time.monotonic() - self._started,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.stream.load_state(state["stream"])
        own = state["processes"][self.processes.index]
        set_random_state(own["random"], self.device)
        self.draw.set_state(own["draw"])
        self.objective.load_state({name: value.to(self.device) for name, value in own["objective"].items()})
        self.step, self._sums = state["step"], state["sums"]
        self.record.losses, self.record.tokens = state["losses"], state["tokens"]
        self.record.wall_time_s += state["seconds"]

    def _take_step(self, checkpoint: Checkpoint) -> float:
        """One step of the optimizer; gives its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for _ in range(self.settings.accumulate):
            for name, value in self._add_gradient(self.stream.next()).items():
                sums[name] = sums[name] + value if name in sums else value
        # One copy from the device for all terms.
        values = self.processes.sum(torch.stack(list(sums.values()))).tolist()
        summed = dict(zip(sums, values, strict=True))
        targets = max(summed["targets"], 1.0)
        self.processes.sum_gradients(self.parameters)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad /= targets
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.settings.clip))
        loss = summed["loss"] / targets
        for what, value in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(value):
                raise DivergedError(
                    f"the {what} is {value} at step {self.step + 1}: nothing was written, {checkpoint}; "
                    f"lower --learning-rate"
                )
        self._record(summed)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        return loss

    def _add_gradient(self, sequences: Sequences) -> dict[str, Tensor]:
        """Adds the gradient of a batch's summed loss to the parameters'; gives `targets`, and each term times them."""
        self.record.tokens += sum(len(segment.ids) for segment in sequences.rows)
        own = Sequences(sequences.rows[self.processes.index :: self.processes.count])
        batch = {name: value.to(self.device) for name, value in self.objective.batch(own, self.draw).items()}
        # fp16's range would need loss scaling; bf16 has float32's.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            terms = self.objective(batch)
        targets = terms.pop("targets").detach().float()
        (terms["loss"] * targets).backward()
        return {"targets": targets, **{name: value.detach().float() * targets for name, value in terms.items()}}

    def _record(self, summed: dict[str, float]) -> None:
        """Adds a step's sums to those of the entry under way, and closes it where it is time."""
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in summed.items()}
        step = self.step + 1
        if step % math.ceil(self.settings.steps / ENTRIES) == 0 or step == self.settings.steps:
            targets = self._sums.pop("targets")
            means = {name: value / max(targets, 1.0) for name, value in self._sums.items()}
            self.record.losses.append({"step": step, "lr": self.schedule.get_last_lr()[0], "targets": targets, **means})
            self._sums = {}

    def _say_losses(self, rate: float) -> None:
        steps = self.settings.steps
        recent = [entry for entry in self.record.losses if entry["step"] > self.step - math.ceil(steps / _LINES)]
        targets = max(sum(entry["targets"] for entry in recent), 1.0)
        loss = sum(entry["loss"] * entry["targets"] for entry in recent) / targets
        say(f"  step {self.step:,} of {steps:,}: loss {loss:.4f}, {rate:,.0f} tokens/s")
