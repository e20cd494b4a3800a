"""Several processes that train one model, each with its part of every batch; alone, a process has the whole.

`accelerate launch` starts them, on the GPUs of one machine or of several, or on CPUs. The batch stays what the settings
say: its rows are dealt out, and what the parts give is summed, so that every process has the same weights at each step.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from common.progress import told_to

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """How much of a batch a part of it is: the weights with which means over parts add up to those over the batch.

    Attributes:
        rows: for a mean over rows.
        tokens: for a mean over tokens.
    """

    rows: float = 1.0
    tokens: float = 1.0


WHOLE = Share()


@dataclass(frozen=True)
class Processes:
    """The processes of a training run, and which of them this one is.

    All of them must call the same methods in the same order.

    Attributes:
        count: how many there are.
        index: of this one, from 0. The first alone writes and speaks.
    """

    count: int = 1
    index: int = 0

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def part(self, rows: list[int], lengths: Sequence[int]) -> tuple[list[int], Share]:
        """This process's rows of a batch: every `count`-th, so that the parts are of like length.

        Where there are fewer rows than processes, some have a row that counts for nothing.

        Args:
            lengths: tokens of every training row.
        """
        if self.count == 1:
            return rows, WHOLE
        own = rows[self.index :: self.count]
        if not own:
            return rows[:1], Share(0.0, 0.0)
        tokens, all_tokens = (sum(lengths[row] for row in some) for some in (own, rows))
        return own, Share(len(own) / len(rows), tokens / all_tokens)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes, the same in each."""
        if self.count == 1:
            return value
        from accelerate.utils import reduce

        total: Tensor = reduce(value, "sum")
        return total

    def any(self, holds: bool, device: torch.device) -> bool:
        """Whether something holds in any process."""
        if self.count == 1:
            return holds
        return bool(self.sum(torch.tensor(int(holds), device=device)))

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Puts the sum over all processes in the place of each gradient."""
        if self.count == 1:
            return
        # A part without labels may leave the head without one, which other parts have; some parameters are never used.
        has_one = torch.tensor([parameter.grad is not None for parameter in parameters], device=parameters[0].device)
        gradients = []
        for parameter in itertools.compress(parameters, self.sum(has_one.int()).tolist()):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        whole = self.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, whole.split([entry.numel() for entry in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def from_first(self, value: T) -> T:
        """What the first process has, in each."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        found: T = broadcast_object_list([value])[0]
        return found

    def wait(self) -> None:
        """Until all processes are here."""
        self.from_first(None)

    def gathered(self, value: T) -> list[T]:
        """What each process has, in each."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        found: list[T] = gather_object([value])
        return found


ALONE = Processes()


@functools.cache
def launched() -> Processes:
    """The processes that `accelerate launch` (or `torchrun`) started this one with, connected; else `ALONE`."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "MASTER_ADDR" not in os.environ:
        return ALONE
    from accelerate import PartialState

    # Without a GPU, Accelerate connects nothing unless it is told to use CPUs.
    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.num_processes, state.process_index)


def own_device() -> torch.device:
    """This process's GPU, or the CPU; the same where it is alone as where there are several."""
    if launched().count > 1:
        from accelerate import PartialState

        device: torch.device = PartialState().device
        return device
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """While the block runs, lines and bars of the first process alone are shown."""
    with contextlib.nullcontext() if launched().is_first else told_to(_nobody):
        yield


def _nobody(_line: str) -> None:
    pass
