"""Permutation language modelling (XLNet, Yang et al., NeurIPS 2019): tokens predicted in random orders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, XLNetLMHeadModel

from common.errors import InputError
from distill.pretraining.factorization import draw_places, draw_targets, hidden_pairs
from distill.pretraining.length_groups import batch_groups
from distill.pretraining.objective import PretrainingObjective, Sequences
from distill.pretraining.recurrence import Memory, no_memory, two_streams
from distill.pretraining.settings import PretrainingSettings
from distill.pretraining.xlnet_rows import XLNetRow, cut_in_two, one_segment, two_segments
from kernels.xlnet import fuse

_REUSED, _REST, _PADDING = range(3)  # the parts of a row, each with an order of its own
_NO_TARGET = -100  # as cross_entropy has it


class PermutationObjective(PretrainingObjective):
    """One token in K is predicted from those before it in a random order, and from a memory of the text before.

    A row is a segment, SEP and CLS; with two `segments`, what is not remembered is cut in two, each with a SEP behind
    it and an id of its own, and half of the time another row's text takes the second one's place. Of a row's order come
    first the tokens that are no target, which all others see and which see each other; then targets, SEP and CLS, in an
    order drawn anew for each row, the latter two never targets. The loss is the mean cross-entropy of the targets (Yang
    et al., eq. 5), by the embeddings' matrix and a bias. A target before which nothing stands is left out: attention
    over nothing is the mean of all values, its own with them.

    With `memory_length`, each layer sees its own inputs at the last tokens before the segment, in rows that go on with
    their document and in no others. Padding stands behind the text, where it does not come between text and memory;
    positions being relative, it changes nothing else.

    With `reuse_length`, segments overlap, as in the authors' code: each starts so many tokens behind the one before,
    whose first tokens alone are remembered. They have an order of their own and see nothing behind them, since it is
    read again.

    With `bidirectional`, the second half of the rows read their documents from the end to the beginning: the segments
    come in that order, and so do the ids in them. Their positions count backwards.
    """

    name = "permutation"

    def __init__(self, encoder: PreTrainedModel, tokenizer: Any, settings: PretrainingSettings):
        """
        Args:
            encoder: an XLNetLMHeadModel; it runs on `relative_attention` from here on.

        Raises:
            InputError: another model, a tokenizer without SEP or CLS, or settings that do not fit each other.
        """
        super().__init__(encoder, tokenizer, settings)
        if not isinstance(encoder, XLNetLMHeadModel) or encoder.config.attn_type != "bi":
            raise InputError(f"permutation is XLNet's objective: '{encoder.config.model_type}' cannot be trained by it")
        if tokenizer.sep_token_id is None or tokenizer.cls_token_id is None:
            raise InputError("the tokenizer has no separator or no classification token, which XLNet reads")
        if (settings.reuse_length or 1) > self.body_tokens:
            special = settings.max_length - self.body_tokens
            raise InputError(f"reuse_length must be at most max_length less the {special} special tokens")
        fuse(encoder)
        # Of the module, not of its config: it is no property of the model that is saved.
        encoder.transformer.bi_data = settings.bidirectional
        self._memory: Memory | None = None

    @property
    def body_tokens(self) -> int:
        # A SEP behind each segment, and CLS.
        return self.settings.max_length - self.settings.segments - 1

    @property
    def stride(self) -> int:
        return self.settings.reuse_length or self.body_tokens

    def batch(self, sequences: Sequences, draw: torch.Generator) -> dict[str, Tensor]:
        """A batch under transformers' names, and what the memory needs to know of it.

        Returns:
            `input_ids` and `token_type_ids`, int64 `[rows, length]`; `perm_mask`, bool `[rows, length, length]`, which
            hides padding too; `target_mapping`, float `[rows, targets, length]`; `labels`, int64 `[rows, targets]`,
            -100 where a row has fewer targets than others; `continues`, bool `[rows]`; `kept`, how many of a row's
            first tokens are remembered, and `lengths`, how many tokens it has, both int64 `[rows]`.
        """
        rows = self._rows(sequences, draw)
        lengths = torch.tensor([len(row.ids) for row in rows])
        shape = len(rows), int(lengths.max())
        input_ids = torch.full(shape, self.tokenizer.pad_token_id or 0)
        token_type_ids = torch.zeros(shape, dtype=torch.int64)
        text, targets = torch.zeros(2, *shape, dtype=torch.bool)
        for number, row in enumerate(rows):
            input_ids[number, : len(row.ids)] = torch.tensor(row.ids)
            token_type_ids[number, : len(row.ids)] = torch.tensor(row.segments)
            places = torch.tensor(row.text)
            text[number, places] = True
            targets[number, places] = self._targets(len(row.text), draw)
        reuse = self.settings.reuse_length
        kept = torch.tensor([min(len(segment.ids), reuse or len(segment.ids)) for segment in sequences.rows])
        at = torch.arange(shape[1])
        parts = torch.where(at < lengths[:, None], _REST, _PADDING)
        if reuse is not None:
            parts[at < kept[:, None]] = _REUSED
        context = text & ~targets
        places = draw_places(parts, context, draw)
        mapping = _target_mapping(targets)
        labels = torch.where(mapping.any(2), (mapping * input_ids[:, None]).sum(2), _NO_TARGET)
        return {
            "input_ids": input_ids,
            "token_type_ids": token_type_ids,
            "perm_mask": hidden_pairs(places, context),
            "target_mapping": mapping.float(),
            "labels": labels,
            "continues": torch.tensor([segment.continues for segment in sequences.rows]),
            "kept": kept,
            "lengths": lengths,
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`loss`, and `targets`, how many tokens were predicted; the memory then is that behind this batch.

        A batch with another number of rows than the one before starts without memory.
        """
        if self.settings.memory_length:
            memory = self._memory_of(batch["continues"])
            states, labels, inputs = self._predicted(batch, memory)
            self._memory = memory.extended(inputs, batch["kept"], self.settings.memory_length)
        else:
            model = self.encoder.transformer
            parts = [self._predicted(part, no_memory(model, len(part["labels"]))) for part in self._parts(batch)]
            states, labels = (torch.cat([part[at] for part in parts]) for at in (0, 1))
        logits = self.encoder.lm_loss(states)
        # Of no targets at all, the loss is 0 rather than no number.
        loss = functional.cross_entropy(logits.float(), labels, reduction="sum") / max(len(labels), 1)
        return {"loss": loss, "targets": labels.new_tensor(len(labels))}

    def _predicted(self, batch: dict[str, Tensor], memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
        """The query stream's states at the targets that see something, `[targets, d_model]`; their labels, `[targets]`;
        and what went into the layers, as `two_streams` has it."""
        model = self.encoder.transformer
        perm_mask, mapping = batch["perm_mask"], batch["target_mapping"].to(model.dtype)
        states, inputs = two_streams(model, batch["input_ids"], batch["token_type_ids"], perm_mask, mapping, memory)
        blind = perm_mask.all(2) & (memory.filled == 0)[:, None]
        blind_targets = (mapping @ blind[:, :, None].to(mapping.dtype))[:, :, 0] > 0
        predicted = (batch["labels"] != _NO_TARGET) & ~blind_targets
        return states[predicted], batch["labels"][predicted], inputs

    def _parts(self, batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """The batch's rows in groups of like length, without the padding that a group does not need."""
        ids = batch["input_ids"]
        # A row's place in the batch tells which way it is read.
        groups = [] if self.settings.bidirectional else batch_groups(batch["lengths"], ids.shape[1])
        if len(groups) < 2:
            yield batch
            return
        counts = (batch["labels"] != _NO_TARGET).sum(1)
        for rows in groups:
            length, targets = int(batch["lengths"][rows].max()), int(counts[rows].max())
            yield {
                "input_ids": ids[:, :length][rows],
                "token_type_ids": batch["token_type_ids"][:, :length][rows],
                "perm_mask": batch["perm_mask"][:, :length, :length][rows],
                "target_mapping": batch["target_mapping"][:, :targets, :length][rows],
                "labels": batch["labels"][:, :targets][rows],
            }

    def state(self) -> dict[str, Tensor]:
        """The memory, where there is one."""
        return {} if self._memory is None else {"states": self._memory.states, "filled": self._memory.filled}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes up the memory that `state` gave, on the encoder's device."""
        on_device = {name: value.to(self.encoder.device) for name, value in state.items()}
        self._memory = Memory(**on_device) if state else None

    def _rows(self, sequences: Sequences, draw: torch.Generator) -> list[XLNetRow]:
        """Each segment with its special tokens."""
        sep, cls = self.tokenizer.sep_token_id, self.tokenizer.cls_token_id
        texts = [segment.ids for segment in sequences.rows]
        if self.settings.segments == 1:
            return [one_segment(ids, sep, cls) for ids in texts]
        half = len(texts) // 2 if self.settings.bidirectional else 0
        groups = [range(half), range(half, len(texts))]
        cut = cut_in_two(texts, self.settings.reuse_length or 0, groups, draw)
        return [
            two_segments(first, second, sep, cls) if second else one_segment(first, sep, cls) for first, second in cut
        ]

    def _targets(self, length: int, draw: torch.Generator) -> Tensor:
        """The targets of a row, one of them at least, bool `[length]`."""
        reused = min(length, self.settings.reuse_length or 0)
        parts = [draw_targets(tokens, self.settings.span_k, draw) for tokens in (reused, length - reused)]
        targets = torch.cat(parts)
        if not targets.any():
            targets[torch.randint(length, (), generator=draw)] = True
        return targets

    def _memory_of(self, continues: Tensor) -> Memory:
        if self._memory is None or len(self._memory.filled) != len(continues):
            return no_memory(self.encoder.transformer, len(continues))
        return self._memory.of(continues)


def _target_mapping(targets: Tensor) -> Tensor:
    """A row for each target, with a 1 at its position, and rows of zeros: int64 `[rows, targets, length]`.

    Args:
        targets: bool `[rows, length]`.
    """
    most = int(targets.sum(1).max())
    number = torch.where(targets, targets.cumsum(1) - 1, most)
    return functional.one_hot(number, most + 1)[:, :, :most].transpose(1, 2)
