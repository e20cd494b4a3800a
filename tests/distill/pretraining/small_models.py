"""Small models with a language-model head, and segments of text for them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertForMaskedLM, RobertaForMaskedLM, XLNetLMHeadModel

from distill.pretraining.objective import Segment, Sequences
from tests.conftest import make_config, make_tokenizer, messages

TOKENIZERS = {family: make_tokenizer(family) for family in ("bert", "roberta", "xlnet")}
HEADS = {"bert": BertForMaskedLM, "roberta": RobertaForMaskedLM, "xlnet": XLNetLMHeadModel}


def small_model(family: str = "bert", seed: int = 0, **config: Any) -> Any:
    """Of two layers and random weights, large enough that it tells texts apart."""
    torch.manual_seed(seed)
    return HEADS[family](make_config(family, len(TOKENIZERS[family]), 2, initializer_range=0.2, **config))


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def segments(rows: list[list[int]]) -> Sequences:
    return Sequences([Segment(ids, False) for ids in rows])


def texts(family: str = "bert", count: int = 8) -> Sequences:
    """Shipped messages, each a segment."""
    lines = [row["text"] for row in messages()[:count]]
    return segments(TOKENIZERS[family](lines, add_special_tokens=False).input_ids)
