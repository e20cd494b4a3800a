"""What `test_pretraining.py` has Accelerate's launcher run in several processes, and runs in one itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.checkpoint import Checkpoint
from distill.pretraining import pretraining
from distill.pretraining.settings import PretrainingSettings
from tests.distill.pretraining.tiny import TinyObjective

# Five rows, for two processes; as good as every token is a target.
SETTINGS = PretrainingSettings(
    "masked", steps=6, batch_size=5, accumulate=2, max_length=16, learning_rate=1e-3, mask_share=0.999999
)


def pretrain_in_two_parts(corpus: Path, config: Path, output: Path) -> None:
    """Stops after three steps and goes on; `config` must have no dropout."""
    step, calls = torch.optim.AdamW.step, []

    def stop(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(pretraining.OBJECTIVES, "masked", TinyObjective)
        patched.setattr(torch.optim.AdamW, "step", stop)
        patched.setattr(Checkpoint, "due", True)
        with pytest.raises(KeyboardInterrupt):
            pretraining.pretrain([corpus], output, SETTINGS, config=config)
        pretraining.pretrain([corpus], output, SETTINGS, config=config)


if __name__ == "__main__":
    pretrain_in_two_parts(*map(Path, sys.argv[1:]))
