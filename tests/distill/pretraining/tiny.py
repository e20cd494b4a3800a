"""A small objective, corpus and run that the tests of pretraining share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.pretraining.objective import PretrainingObjective, Sequences
from distill.pretraining.pretraining import pretrain
from distill.pretraining.record import PretrainingRecord
from distill.pretraining.settings import PretrainingSettings
from tests.conftest import make_config, messages

# A corpus, and a config of each family.
Files = dict[str, Path]

SETTINGS = PretrainingSettings("masked", steps=12, batch_size=4, accumulate=2, max_length=16, learning_rate=1e-3)
OBJECTIVES = ("masked", "permutation", "infoword")


def settings_for(objective: str, **more: Any) -> PretrainingSettings:
    """`SETTINGS` for an objective, with XLNet's memory where that is its."""
    special = {"memory_length": 8, "reuse_length": 8} if objective == "permutation" else {}
    return replace(SETTINGS, objective=objective, **special, **more)


class TinyObjective(PretrainingObjective):
    """Predicts a drawn share of each segment's tokens from the mean of all; it keeps and uses the states before."""

    name = "masked"

    def __init__(self, encoder: nn.Module, tokenizer: object, settings: PretrainingSettings):
        super().__init__(encoder, tokenizer, settings)  # type: ignore[arg-type]
        self.memory: Tensor | None = None

    @property
    def body_tokens(self) -> int:
        return self.settings.max_length - 2

    def batch(self, sequences: Sequences, draw: torch.Generator) -> dict[str, Tensor]:
        longest = max(len(segment.ids) for segment in sequences.rows)
        ids = torch.zeros(len(sequences.rows), longest, dtype=torch.long)
        for row, segment in enumerate(sequences.rows):
            ids[row, : len(segment.ids)] = torch.tensor(segment.ids)
        chosen = (torch.rand(ids.shape, generator=draw) < self.settings.mask_share) & (ids > 0)
        goes_on = torch.tensor([segment.continues for segment in sequences.rows])
        return {"ids": ids, "chosen": chosen, "continues": goes_on}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        ids, chosen = batch["ids"], batch["chosen"]
        states = self.encoder(input_ids=ids, attention_mask=(ids > 0).long(), output_hidden_states=True)
        own = states.hidden_states[-1].mean(1)
        if self.memory is not None:
            own = own + batch["continues"][:, None] * self.memory
        self.memory = own.detach()
        scores = states.logits + own.mean(-1)[:, None, None] * states.logits.detach()
        loss = nn.functional.cross_entropy(scores[chosen], ids[chosen], reduction="sum")
        targets = chosen.sum()
        return {"loss": loss / targets.clamp(min=1), "tokens": chosen.float().mean(), "targets": targets}

    def state(self) -> dict[str, Tensor]:
        return {} if self.memory is None else {"memory": self.memory}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.memory = state.get("memory")


def write_corpus(path: Path, count: int = 160) -> Path:
    """Shipped messages, eight of them a document, with blank lines between."""
    texts = [row["text"] for row in messages()][:count]
    documents = ["\n".join(texts[start : start + 8]) for start in range(0, count, 8)]
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return path


def write_config(path: Path, family: str = "bert", **more: object) -> Path:
    """A config of two small layers."""
    config = make_config(family, 300, 2)
    for name, value in more.items():
        setattr(config, name, value)
    config.to_json_file(path, use_diff=False)
    return path


def run_pretrain(given: Files, output: Path, settings: PretrainingSettings, **more: Any) -> PretrainingRecord:
    """`pretrain` on the corpus, by the config of the objective's family unless a model is given."""
    config = None if "model" in more else given["xlnet" if settings.objective == "permutation" else "bert"]
    return pretrain([given["corpus"]], output, settings, config=config, **more)
