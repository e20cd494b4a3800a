"""Word embeddings under training: the rows of the words that the tables hold, while the others wait."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel


class UsedWords(nn.Embedding):
    """Stands in for a model's word embeddings, and has those rows of theirs alone that a run reads.

    A table holds a small part of a vocabulary, which has tens of thousands of words, and hundreds of thousands where it
    is of many languages. The gradient of the other words is always zero, so that all that AdamW does to them is to let
    them decay; but gradient, both moments, the best epoch's weights and each checkpoint would hold them, and each step
    would go over them. Here they decay once, at the end. Apart from rounding the weights are the same.
    """

    def __init__(self, table: nn.Embedding, words: Tensor):
        """
        Args:
            table: all words' embeddings, `[vocabulary, width]`; they stay as they are until `give_back`.
            words: those that are read, int64 `[used]`, each once.
        """
        places = torch.full((table.num_embeddings,), -1, dtype=torch.long)
        places[words] = torch.arange(len(words))
        padding = None if table.padding_idx is None else int(places[table.padding_idx])
        rows = table.weight.detach()[words.to(table.weight.device)]
        super().__init__(len(words), table.embedding_dim, padding_idx=padding, _weight=rows)
        # Neither is the model's: nothing trains or saves them, and the whole table stays where it is.
        self._table = (table,)
        self.register_buffer("_places", places.to(rows.device), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings `[..., width]` of the words `[...]`, by their numbers in the whole vocabulary."""
        return functional.embedding(self._places[ids], self.weight, self.padding_idx)

    def give_back(self, model: PreTrainedModel, decay: float) -> None:
        """Puts the whole table back into `model`, with what these rows learned.

        Args:
            decay: what the weight decay left of a row that had no gradient, as a factor.
        """
        (table,) = self._table
        used = self._places >= 0
        with torch.no_grad():
            table.weight[~used] *= decay
            table.weight[used] = self.weight[self._places[used]]
        model.set_input_embeddings(table)


def only_used_words(model: PreTrainedModel, words: Iterable[int]) -> UsedWords | None:
    """Puts a `UsedWords` of `words` into `model`; None, with the model as it was, where that would not be the same.

    Args:
        words: ids that the tokenizer may give. Padding is added to them; tokens that it has beyond the model's
            vocabulary are in no text, which is known by now.
    """
    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    # Subclasses do something of their own, as scaling; a norm that is kept to changes rows that are looked up.
    if type(table) is not nn.Embedding or table.max_norm is not None or table.sparse or table.scale_grad_by_freq:
        return None
    padding = () if table.padding_idx is None else (table.padding_idx,)
    used = UsedWords(table, torch.tensor(sorted(word for word in {*words, *padding} if word < table.num_embeddings)))
    model.set_input_embeddings(used)
    # Some other part of the model has the table too.
    if any(parameter is table.weight for parameter in model.parameters()):
        model.set_input_embeddings(table)
        return None
    return used


def decay_factor(rates: Iterable[float], weight_decay: float) -> float:
    """What AdamW leaves of a weight that never had a gradient, after steps at these learning rates (Loshchilov and
    Hutter 2019, arXiv 1711.05101, algorithm 2)."""
    return math.prod(1 - rate * weight_decay for rate in rates)
