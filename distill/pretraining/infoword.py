"""InfoWord (Kong et al., ICLR 2020, arXiv 1910.08350): a masked language model, and Deep InfoMax (DIM) of n-grams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.errors import InputError
from distill.models import head_position
from distill.pretraining.info_nce import Bound, info_nce, similarity
from distill.pretraining.length_groups import last_states
from distill.pretraining.masked import Frame, MaskedObjective, mask_token
from distill.pretraining.ngrams import Words, draw_ngrams
from distill.pretraining.objective import Sequences
from distill.pretraining.settings import PretrainingSettings

# Of a sentence's sub-words that n-grams are drawn from.
SHARE = 0.15


def check_mutual_information(config: Any, tokenizer: Any) -> None:
    """
    Raises:
        InputError: there is no `DeepInfoMax` of an encoder with this config and tokenizer.
    """
    if head_position(config) != 0:
        raise InputError(
            f"mutual information with n-grams is told from the first token's state, and the head of "
            f"'{config.model_type}' reads the last one: choose another family"
        )
    Words(tokenizer)
    mask_token(tokenizer)


class DeepInfoMax:
    """J_DIM, section 4: how much the vector of a sentence tells about n-grams that are hidden in it.

    The global view x̂ is the sentence with its n-grams hidden, each sub-word behind a mask token; the local view is one
    of the n-grams alone. One encoder f reads both, f(x) is its last layer's state at the first token, and

        J_DIM = E[ f(x̂)·f(x_i:j) - log Σ_x̃ exp( f(x̂)·f(x̃) ) ]

    where x̃ runs over x_i:j itself and the n-grams of the batch's other sentences, but for those of the same text.
    There is no projection and no temperature. One global view serves all n-grams of its sentence.

    It is no `nn.Module`, so that nothing trains or saves the encoder a second time.
    """

    def __init__(self, encoder: PreTrainedModel, tokenizer: Any, share: float = SHARE):
        """
        Args:
            encoder: without a head, or with one that is not used.
            tokenizer: a transformers tokenizer.
            share: of a sentence's sub-words that its n-grams are drawn from.

        Raises:
            InputError: the family's head reads another than the first token; the tokenizer has no mask token, or does
                not tell where words begin.
        """
        check_mutual_information(encoder.config, tokenizer)
        self._encoder = encoder.base_model
        self._words = Words(tokenizer)
        self._mask_id = mask_token(tokenizer)
        self._frame = Frame(tokenizer, encoder.config)
        self._share = share

    def views(self, ids: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
        """Both views of all sentences, on CPU.

        Args:
            ids: int64 `[batch, length]`, with special tokens and padding.

        Returns:
            `global_ids` `[batch, length]`; `local_ids` and `local_mask` `[n-grams, longest]`, each n-gram with special
            tokens of its own; `sentence` `[n-grams]`, the row that each was cut from; `text` `[n-grams]`, the same
            number for the same sub-words.
        """
        rows = ids.tolist()
        hidden, sentence, text = ids.cpu().clone(), [], []
        bodies: list[list[int]] = []
        known: dict[tuple[int, ...], int] = {}
        for number, row in enumerate(rows):
            for place in draw_ngrams(self._words.of(row), self._share, draw):
                hidden[number, place.start : place.stop] = self._mask_id
                bodies.append(row[place.start : place.stop])
                sentence.append(number)
                text.append(known.setdefault(tuple(bodies[-1]), len(known)))
        alone = self._frame(bodies, ("input_ids", "attention_mask")) if bodies else {}
        nothing = torch.zeros(0, 1, dtype=torch.long)
        return {
            "global_ids": hidden,
            "local_ids": alone.get("input_ids", nothing),
            "local_mask": alone.get("attention_mask", nothing),
            "sentence": torch.tensor(sentence, dtype=torch.long),
            "text": torch.tensor(text, dtype=torch.long),
        }

    def bound(self, inputs: dict[str, Tensor], views: dict[str, Tensor]) -> Bound:
        """-J_DIM, and the mutual information that it vouches for; both are 0 where the batch has no n-gram.

        Args:
            inputs: the batch as the model takes it; the global views take the place of its ids.
            views: those of `views`, on the batch's device.
        """
        if not len(views["local_ids"]):
            zero = torch.zeros((), device=inputs["input_ids"].device)
            return Bound(zero, zero)
        whole = self._vectors({**inputs, "input_ids": views["global_ids"]})
        alone = self._vectors({"input_ids": views["local_ids"], "attention_mask": views["local_mask"]})
        own = torch.arange(len(alone), device=alone.device)
        return info_nce(similarity(whole, alone)[views["sentence"]], own, candidates(views["sentence"], views["text"]))

    def _vectors(self, inputs: dict[str, Tensor]) -> Tensor:
        device = inputs["input_ids"].device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return last_states(self._encoder, inputs)[:, 0]


def candidates(sentence: Tensor, text: Tensor) -> Tensor:
    """Which n-grams stand in the sum of each pair, bool `[n-grams, n-grams]`: its own, and those of other sentences
    whose text is not the same.

    Args:
        sentence: `[n-grams]`, which sentence each was cut from.
        text: `[n-grams]`, the same number for the same text.
    """
    others = (sentence[:, None] != sentence) & (text[:, None] != text)
    return others | torch.eye(len(text), dtype=torch.bool, device=text.device)


class InfoWordObjective(MaskedObjective):
    """loss = -J_MLM - λ_DIM · J_DIM.

    J_MLM is `MaskedObjective`'s; or, with `mlm_loss` nce, the sum is not over the vocabulary but over the token itself
    and what the batch's other sequences hold, each token as often as it stands there and never the token itself. The
    masks of J_MLM are drawn as for `masked`, and n-grams after them, so with λ_DIM = 0 this is plain `masked`.
    """

    name = "infoword"

    def __init__(self, encoder: PreTrainedModel, tokenizer: Any, settings: PretrainingSettings):
        """
        Raises:
            InputError: as `MaskedObjective` and `DeepInfoMax` have it.
        """
        super().__init__(encoder, tokenizer, settings)
        self.dim = DeepInfoMax(encoder, tokenizer, settings.mask_share) if settings.dim_weight else None

    def batch(self, sequences: Sequences, draw: torch.Generator) -> dict[str, Tensor]:
        """As `masked` has it, with `DeepInfoMax.views`, and for nce `words` and `elsewhere` (`words_of_others`)."""
        batch = super().batch(sequences, draw)
        bodies = [segment.ids for segment in sequences.rows]
        if self.settings.mlm_loss == "nce":
            batch["words"], batch["elsewhere"] = words_of_others(bodies)
        if self.dim is not None:
            batch |= self.dim.views(self.frame(bodies, ["input_ids"])["input_ids"], draw)
        return batch

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `masked` has it, with the unweighed terms `mlm` and `dim`, and `mutual_information`, in nats: what
        `dim`'s bound vouches for between a sentence's vector and an n-gram's."""
        terms = super().forward(batch)
        terms["mlm"] = terms["loss"]
        if self.dim is not None:
            bound = self.dim.bound(self.inputs(batch), batch)
            terms["loss"] = terms["mlm"] + self.settings.dim_weight * bound.loss
            terms |= {"dim": bound.loss, "mutual_information": bound.mutual_information}
        return terms

    def masked_loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        if self.settings.mlm_loss == "softmax":
            return super().masked_loss(logits, batch)
        row = batch["places"] // batch["input_ids"].shape[1]
        own = torch.searchsorted(batch["words"], batch["labels"])
        times = batch["elsewhere"][row].scatter(1, own[:, None], 1)
        return info_nce(logits[:, batch["words"]], own, times).loss


def words_of_others(bodies: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """The sub-words that are negatives of the masked ones.

    Args:
        bodies: token ids of each row.

    Returns:
        Those of the batch, `[words]` in ascending order, and how often each stands in the rows other than one,
        `[rows, words]`.
    """
    words, place = torch.unique(torch.tensor([token for body in bodies for token in body]), return_inverse=True)
    rows = place.split([len(body) for body in bodies])
    counts = torch.stack([torch.bincount(row, minlength=len(words)) for row in rows])
    return words, counts.sum(dim=0) - counts
