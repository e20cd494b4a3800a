"""`pretraining.json`: what a pretraining run was given, did and reached."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.files import MADE_BY, write_json

RECORD_FILE = "pretraining.json"
FORMAT_VERSION = 1
# A run of any length has about so many entries.
ENTRIES = 1_000


@dataclass
class PretrainingRecord:
    """One run of `pretrain`.

    Attributes:
        settings: every setting of the run.
        corpus: names and hashes of the files, and how documents lie in them.
        started_from: name and hash of the model that training went on from; None for random weights.
        model: its config's sizes, and the number of trained parameters, the objective's own included.
        device: the kind of device.
        losses: one entry for every so many steps: the last of them, its learning rate, and the mean of each term over
            them, in which batches count by their targets.
        tokens: of the corpus that were read, those of documents read again included.
        epochs: which pass over the corpus the run ended in, from 1.
        wall_time_s: seconds.
    """

    settings: dict[str, Any]
    corpus: dict[str, Any]
    started_from: dict[str, str] | None
    model: dict[str, Any]
    device: str
    losses: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    epochs: int = 0
    wall_time_s: float = 0.0

    def write(self, directory: Path) -> None:
        """Writes the record into a model's directory."""
        versions = {name: version(name) for name in ("understudy", "torch", "transformers", "tokenizers")}
        write_json(
            directory / RECORD_FILE,
            {
                **MADE_BY,
                "format_version": FORMAT_VERSION,
                **vars(self),
                "versions": {"python": platform.python_version(), **versions},
            },
        )
