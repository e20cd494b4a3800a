"""BERT's masked language model (Devlin et al., NAACL 2019, arXiv 1810.04805, section 3.1, task 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from common.errors import InputError
from distill.models import head_position, input_names
from distill.pretraining.length_groups import last_states
from distill.pretraining.objective import PretrainingObjective, Sequences
from distill.pretraining.settings import PretrainingSettings

# Of the chosen tokens, the share that is hidden behind the mask token, and that another token takes the place of; the
# others stay as they are.
HIDDEN, REPLACED = 0.8, 0.1

# Under which name the families keep the head that reads one state and scores all tokens.
_HEADS = ("cls", "lm_head", "lm_loss", "predictions")


class Frame:
    """The special tokens that a family puts around a text, and its padding.

    Attributes:
        special: how many tokens there are around a text.
    """

    def __init__(self, tokenizer: Any, config: Any):
        """
        Args:
            tokenizer: a transformers tokenizer.

        Raises:
            InputError: it puts none around a text.
        """
        around = tokenizer.backend_tokenizer.encode("")
        if not around.ids:
            raise InputError("the tokenizer puts no special tokens around a text, and the head reads one of them")
        before = 1 if head_position(config) == 0 else 0
        self._before, self._behind = around.ids[:before], around.ids[before:]
        self._types_before, self._types_behind = around.type_ids[:before], around.type_ids[before:]
        self.special = len(around.ids)
        self._padding = {
            "input_ids": tokenizer.pad_token_id or 0,
            "attention_mask": 0,
            "token_type_ids": tokenizer.pad_token_type_id,
        }
        self._side = tokenizer.padding_side

    def __call__(self, bodies: Sequence[Sequence[int]], names: Sequence[str]) -> dict[str, Tensor]:
        """Token ids as a padded batch of the model's tensors `names`, each int64 `[bodies, longest]`."""
        rows: dict[str, Iterable[list[int]]] = {
            "input_ids": ([*self._before, *body, *self._behind] for body in bodies),
            "attention_mask": ([1] * (self.special + len(body)) for body in bodies),
            "token_type_ids": ([*self._types_before, *[0] * len(body), *self._types_behind] for body in bodies),
        }
        longest = self.special + max(map(len, bodies))
        return {name: self._padded(rows[name], self._padding[name], len(bodies), longest) for name in names}

    def _padded(self, rows: Iterable[list[int]], padding: int, count: int, longest: int) -> Tensor:
        """`[count, longest]`, made at once: a tensor for each row takes longer than a small model's step on a GPU."""
        left = self._side == "left"
        parts = (((fill, row) if left else (row, fill)) for row in rows for fill in [[padding] * (longest - len(row))])
        flat = chain.from_iterable(chain.from_iterable(parts))
        return torch.from_numpy(np.fromiter(flat, np.int64, count * longest)).view(count, longest)


class MaskedObjective(PretrainingObjective):
    """15 % of a segment's tokens are chosen; the model tells from the rest what they were.

    Of those, 80 % are hidden behind the mask token, 10 % replaced by a token drawn evenly from the vocabulary, and 10 %
    left. The loss is the mean of their cross-entropy over the whole vocabulary, by the model's own head, whose matrix
    is that of the input embeddings. The head runs at the chosen positions alone.
    """

    name = "masked"

    def __init__(self, encoder: PreTrainedModel, tokenizer: Any, settings: PretrainingSettings):
        """
        Raises:
            InputError: a model without such a head, or a tokenizer without a mask token.
        """
        super().__init__(encoder, tokenizer, settings)
        lm_head(encoder)
        self.mask_id = mask_token(tokenizer)
        self.frame = Frame(tokenizer, encoder.config)
        self.names = input_names(encoder)
        special = set(tokenizer.all_special_ids)
        self._text_ids = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))
        # The unknown word is text, as far as a segment goes.
        self._special_ids = torch.tensor(sorted(special - {tokenizer.unk_token_id}))

    @property
    def body_tokens(self) -> int:
        return self.settings.max_length - self.frame.special

    def batch(self, sequences: Sequences, draw: torch.Generator) -> dict[str, Tensor]:
        """The model's own tensors, each `[rows, length]`, and of the chosen tokens `labels` and their `places` in the
        flattened batch, both int64 `[targets]`."""
        batch = self.frame([segment.ids for segment in sequences.rows], self.names)
        is_text = (batch["attention_mask"] > 0) & ~torch.isin(batch["input_ids"], self._special_ids)
        places = _chosen(is_text, self.settings.mask_share, draw).flatten().nonzero()[:, 0]
        ids = batch["input_ids"].view(-1)
        labels = ids[places]
        ids[places] = self._altered(labels, draw)
        return {**batch, "places": places, "labels": labels}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`loss`, and `targets`, how many tokens were predicted."""
        states = last_states(self.encoder.base_model, self.inputs(batch))
        logits = lm_head(self.encoder)(states.flatten(0, 1)[batch["places"]])
        return {"loss": self.masked_loss(logits, batch), "targets": batch["labels"].new_tensor(len(batch["labels"]))}

    def masked_loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The mean over the chosen tokens, in float32.

        Args:
            logits: `[targets, vocabulary]`.
        """
        return functional.cross_entropy(logits.float(), batch["labels"])

    def inputs(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The part of a batch that the model reads."""
        return {name: batch[name] for name in self.names}

    def _altered(self, labels: Tensor, draw: torch.Generator) -> Tensor:
        """What the model sees in the place of the chosen tokens, `[targets]`."""
        fate = torch.rand(len(labels), generator=draw)
        others = self._text_ids[torch.randint(len(self._text_ids), (len(labels),), generator=draw)]
        replaced = torch.where(fate < HIDDEN + REPLACED, others, labels)
        return torch.where(fate < HIDDEN, self.mask_id, replaced)


def lm_head(model: PreTrainedModel) -> nn.Module:
    """What scores all tokens of the vocabulary, from states `[…, width]` to `[…, vocabulary]`.

    Raises:
        InputError: the family has no such head, or keeps it in several parts.
    """
    for name in _HEADS:
        if isinstance(head := getattr(model, name, None), nn.Module):
            return head
    raise InputError(
        f"'{model.config.model_type}' has no language-model head in one piece: pretrain a BERT, RoBERTa or XLNet"
    )


def mask_token(tokenizer: Any) -> int:
    """The id of the token that hides others.

    Raises:
        InputError: the tokenizer has none.
    """
    if tokenizer.mask_token_id is None:
        raise InputError("the tokenizer has no mask token to hide words behind")
    return int(tokenizer.mask_token_id)


def _chosen(is_text: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """A share of each row's tokens, one at least, drawn evenly: bool `[rows, length]`.

    Args:
        is_text: which tokens may be chosen, bool `[rows, length]`.
    """
    counts = (share * is_text.sum(dim=1, keepdim=True)).round().clamp(min=1)
    lots = torch.rand(is_text.shape, generator=draw, dtype=torch.float64).masked_fill(~is_text, 2.0)
    return (lots.argsort(dim=1).argsort(dim=1) < counts) & is_text
