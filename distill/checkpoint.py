"""Where a training run stands, kept beside its output: a killed run goes on from there, on CPU with the same bits."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from common.errors import InputError, WorkFailedError, first_line, shown
from common.files import check_names, check_output, durable_file, parents_of, resolved
from common.locks import held_directory
from common.progress import say
from distill.processes import launched

FORMAT_VERSION = 1

# What a kill may cost, in seconds of work, and the share of a run's time that may go into preventing it.
INTERVAL_SECONDS = 30.0
MAX_SHARE = 0.05


class Checkpoint:
    """The state of one run, in one file that is whole or absent.

    Attributes:
        step: of the state that was last saved or loaded; None before.
    """

    def __init__(self, directory: Path, *, overwrite: bool = False):
        """
        Args:
            overwrite: whether the checkpoint of another run may be discarded.
        """
        self.path = directory / "checkpoint.pt"
        self.step: int | None = None
        self._overwrite = overwrite
        self._run: dict[str, Any] = {}
        self._saved = time.monotonic()
        self._pause = INTERVAL_SECONDS

    def __str__(self) -> str:
        """For messages."""
        if self.step is None:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is of step {self.step}, in {self.path.parent}"

    @property
    def due(self) -> bool:
        """Whether it is time to save. When that is decides what a kill costs, and never what a run ends with."""
        return time.monotonic() - self._saved >= self._pause

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Puts the state of the run that `load` was asked for in the place of the one before.

        Args:
            state: tensors, numbers, strings, and lists and dicts of them.

        Raises:
            WorkFailedError: it cannot be written; the one before stays.
        """
        started = time.monotonic()
        try:
            with durable_file(self.path) as file:
                torch.save({"run": self._run, "step": step, "state": state}, file)
        except (OSError, RuntimeError) as error:  # a full disk is the latter to torch
            raise WorkFailedError(
                f"step {step} cannot be kept in {self.path.parent} ({first_line(error)}), {self}"
            ) from None
        self.step, self._saved = step, time.monotonic()
        self._pause = max(INTERVAL_SECONDS, (self._saved - started) / MAX_SHARE)

    def load(self, run: dict[str, Any]) -> dict[str, Any] | None:
        """The state to go on from; None where there is none, or it cannot be read.

        Args:
            run: what makes the run what it is: no other may have its state.

        Raises:
            InputError: the checkpoint is of a run with other settings, data or starting weights, and may not be
                discarded.
        """
        self._run = wanted = _comparable(run)
        if not self.path.exists():
            return None
        try:
            kept = torch.load(self.path, map_location="cpu", weights_only=True)
            found, step, state = dict(kept["run"]), kept["step"], kept["state"]
        except Exception:  # torch raises many kinds for a file that is not what it says
            say(f"{self.path} is damaged: the run starts afresh")
            return None
        if found == wanted:
            self.step = step
            say(f"Going on after step {step:,}, from {self.path.parent}")
            return dict(state)
        names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        other = ", ".join(f"{name} was {_short(found.get(name))}, is {_short(wanted.get(name))}" for name in names[:3])
        if not self._overwrite:
            raise InputError(
                f"{self.path.parent} holds the checkpoint of another run ({other}): repeat that run's command to go on "
                f"with it, or pass --overwrite to discard it"
            )
        say(f"The checkpoint of another run is discarded ({other})")
        return None


@contextlib.contextmanager
def sole_run(output: Path, *, overwrite: bool) -> Iterator[Checkpoint]:
    """The one run that makes `output`, and its checkpoint, in `.NAME.checkpoint` beside it until the run succeeded.

    Of several processes that train together the first stands for all.

    Raises:
        InputError: another process is making `output`, or it may not be replaced.
    """
    output = resolved(output)
    directory = output.with_name(f".{output.name}.checkpoint")
    check_names(directory)
    if not launched().is_first:
        yield Checkpoint(directory)
        return
    with parents_of(output), contextlib.ExitStack() as hold:
        try:
            hold.enter_context(held_directory(directory))
        except BlockingIOError:
            raise InputError(f"another run is writing {output}: wait for it, or choose another output") from None
        checkpoint = Checkpoint(directory, overwrite=overwrite)
        done = False
        try:
            # Another run may have ended between the first look and the lock.
            check_output(output, directory=True, overwrite=overwrite)
            yield checkpoint
            done = True
        except KeyboardInterrupt:
            if checkpoint.step is not None:
                say(f"Step {checkpoint.step:,} is kept in {directory}: the same command goes on from there")
            raise
        finally:
            if done or not checkpoint.path.exists():
                shutil.rmtree(directory, ignore_errors=True)


def _comparable(run: dict[str, Any]) -> dict[str, Any]:
    """As JSON keeps it, where tuples are lists."""
    compared: dict[str, Any] = json.loads(json.dumps({"checkpoint format": FORMAT_VERSION, **run}))
    return compared


def _short(value: Any) -> str:
    return shown(json.dumps(value), 24)
