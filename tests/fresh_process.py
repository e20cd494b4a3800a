"""Processes that a test may kill, each forked from one that has loaded the libraries and used none of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch

# Loaded once, for the processes of all tests: one that has used PyTorch's threads cannot be forked. Training loads
# scikit-learn on its way, which takes longer than the training.
_LIBRARIES = ["distill.finetuning", "distill.pretraining.pretraining", "distill.sweep.sweep", "serve.scoring.score"]
_LIBRARIES += ["sklearn.metrics", "tests.conftest"]
_FRESH = multiprocessing.get_context("forkserver")
_FRESH.set_forkserver_preload(_LIBRARIES)


def exit_code(work: Callable[..., object], *given: Any) -> int:
    """How a process of its own ends that does `work(*given)` and nothing else; minus the signal that killed it."""
    process = _FRESH.Process(target=_work, args=(torch.get_num_threads(), work, given))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _work(threads: int, work: Callable[..., object], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(threads)
    work(*given)
