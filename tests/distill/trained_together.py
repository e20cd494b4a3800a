"""What `test_processes.py` has Accelerate's launcher run in several processes, and runs in one itself."""

from __future__ import annotations

import sys
from pathlib import Path

from distill.distillation import distill
from distill.finetuning import finetune
from distill.settings import DistillationSettings, TrainingSettings

# 96 training rows in batches of 19 leave one row over, fewer than there are processes.
TRAINING = TrainingSettings(epochs=2, learning_rate=1e-3, batch_size=19, max_length=64)


def train_all(base: str, train: str, dev: str, unlabelled: str, directory: Path) -> None:
    """A teacher, and students by all terms of the loss; `base` must have no dropout."""
    finetune(base, train, dev, directory / "teacher", TRAINING)
    for name, settings, texts in (
        ("tokens", {"method": "pkd-skip", "hidden_weight": 1.0, "relation_weight": 1.0}, None),
        # Some parts of a batch have no label, and so no gradient at the head.
        ("unlabelled", {"method": "pkd-skip", "alpha": 0.0, "width": 16, "heads": 4}, unlabelled),
    ):
        flat = {"layers": 2, "init": "teacher-skip", **settings, **vars(TRAINING)}
        student = DistillationSettings.from_flat(flat)
        distill(str(directory / "teacher"), train, dev, directory / name, student, unlabelled=texts)


if __name__ == "__main__":
    train_all(*sys.argv[1:5], Path(sys.argv[5]))
