"""What a pretraining objective is to the loop: segments of text in, one loss out, a model that other commands take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from distill.pretraining.settings import PretrainingSettings


@dataclass(frozen=True)
class Segment:
    """Consecutive token ids of one document, without special tokens.

    Attributes:
        ids: from 1 to `body_tokens` of them.
        continues: whether they follow those of the same row in the batch before, in the same document.
    """

    ids: list[int]
    continues: bool


@dataclass(frozen=True)
class Sequences:
    """What one batch reads of the corpus: one segment a row; a row goes on where it was in the batch before."""

    rows: list[Segment]


class PretrainingObjective(nn.Module):
    """A model with its pretraining head, and a loss. All parameters are trained; `save` keeps those of the encoder.

    Attributes:
        name: as `PretrainingSettings.objective` has it.
        encoder: what is saved at the end: the family's model with its language-model head (`BertForMaskedLM`,
            `XLNetLMHeadModel`), from whose files AutoModel and the classifiers load the encoder.
        tokenizer: the model's transformers tokenizer, for the ids of its special tokens.
    """

    name: ClassVar[str]

    def __init__(self, encoder: PreTrainedModel, tokenizer: Any, settings: PretrainingSettings):
        """
        Args:
            encoder: random or loaded, in float32.
            tokenizer: a transformers tokenizer, with the special tokens of the encoder's family.
        """
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.settings = settings

    @property
    def body_tokens(self) -> int:
        """Ids of a full segment, so that with its special tokens it has `max_length`."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Ids of a segment after which the next segment of its document starts; fewer than `body_tokens` overlap."""
        return self.body_tokens

    def batch(self, sequences: Sequences, draw: torch.Generator) -> dict[str, Tensor]:
        """The tensors of a batch, on CPU; every random choice comes from `draw`."""
        raise NotImplementedError

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`loss` and its terms, scalars, and `targets`, the number of predicted tokens; `loss` is a mean over them.

        Batches of one step count by their targets, so that a loss must be finite (0) where there are none.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside parameters."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes up what `state` gave."""

    def save(self, directory: Path) -> None:
        """Writes config and weights in the Hub's layout, as `finetune` and `distill` take them."""
        self.encoder.save_pretrained(directory)
