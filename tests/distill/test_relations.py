"""Queries, keys and values against the models' own, and what relations do not depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, MPNetConfig

from common.errors import InputError
from distill.distillation import distill
from distill.relations import AttentionVectors, relation_loss
from distill.settings import DistillationSettings, TrainingSettings
from kernels.xlnet import fuse
from tests.conftest import make_config

QUICK = TrainingSettings(epochs=1, learning_rate=1e-3, max_length=64)
IDS, MASK = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(0)), torch.ones(2, 7, dtype=torch.long)


def _model(family: str) -> Any:
    torch.manual_seed(3)
    if family == "mpnet":
        sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
        config: Any = MPNetConfig(vocab_size=60, num_hidden_layers=3, max_position_embeddings=40, num_labels=3, **sizes)
    else:
        config = make_config(family, 60, 3, num_labels=3)
    config._attn_implementation = "eager"
    return AutoModelForSequenceClassification.from_config(config).eval()


def _vectors(seed: int, batch: int, length: int, width: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, length, width, generator=generator) for name in "qkv"}


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "mpnet"])
def test_the_vectors_are_what_the_layers_compute(family: str) -> None:
    model, caught = _model(family), {}
    names = ("query", "key", "value", "q_lin", "k_lin", "v_lin", "q", "k", "v")
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear) and name.rsplit(".", 1)[-1] in names:
            part.register_forward_hook(lambda _part, _given, result, name=name: caught.setdefault(name, result))
    states = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    vectors = AttentionVectors.of(model, 2, "minilmv2")(states)
    expected = [result for name, result in caught.items() if ".1." in name]
    assert len(expected) == 3
    for own, theirs in zip(vectors.values(), expected, strict=True):
        torch.testing.assert_close(own, theirs)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_minilms_relation_of_queries_and_keys_is_the_attention(family: str) -> None:
    model = _model(family)
    output = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True, output_attentions=True)
    vectors = AttentionVectors.of(model, 3, "minilm")(output.hidden_states)
    split = [vectors[name].unflatten(-1, (4, 8)).transpose(1, 2) for name in "qk"]
    scores = split[0] @ split[1].transpose(-1, -2) / 8**0.5
    torch.testing.assert_close(torch.softmax(scores, dim=-1), output.attentions[2])


@pytest.mark.parametrize("fused", [False, True])
def test_the_vectors_of_xlnet(fused: bool) -> None:
    model = _model("xlnet")
    if fused:
        fuse(model)
    states = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).hidden_states
    attention = model.transformer.layer[1].rel_attn
    for name, own in AttentionVectors.of(model, 2, "minilmv2")(states).items():
        theirs = torch.einsum("bih,hnd->bind", states[1], getattr(attention, name)).flatten(2)
        torch.testing.assert_close(own, theirs)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from(["minilm", "minilmv2"]))
def test_padding_does_not_count(seed: int, padding: int, relations: str) -> None:
    own, theirs = _vectors(seed, 2, 4, 8), _vectors(seed + 1, 2, 4, 16)
    alone = relation_loss(own, theirs, torch.ones(2, 4, dtype=torch.long), relations, 4)
    rubbish = [_vectors(seed + 2, 2, padding, width) for width in (8, 16)]
    for left in (True, False):
        sides = []
        for side, more in zip((own, theirs), rubbish, strict=True):
            parts = {name: [100 * more[name], side[name]] for name in side}
            sides.append({name: torch.cat(part if left else part[::-1], dim=1) for name, part in parts.items()})
        mask = [torch.zeros(2, padding, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)]
        padded = relation_loss(*sides, torch.cat(mask if left else mask[::-1], dim=1), relations, 4)
        assert padded.item() == pytest.approx(alone.item(), rel=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 8]), st.sampled_from(["minilm", "minilmv2"]))
def test_it_is_a_divergence(seed: int, heads: int, relations: str) -> None:
    own, theirs = _vectors(seed, 2, 5, 8), _vectors(seed + 1, 2, 5, 8)
    mask = torch.ones(2, 5, dtype=torch.long)
    assert relation_loss(own, theirs, mask, relations, heads).item() > 0
    assert relation_loss(own, own, mask, relations, heads).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"relation_layer": 5}, "relation_layer must be one of the teacher's layers, 1 to 4, not 5"),
        ({"relation_heads": 5}, "relation_heads must divide the teacher's width 32 and the student's 32; 5 does not"),
        ({"relations": "minilm", "width": 16}, "the teacher has 4, the student 2: choose --heads 4 or"),
    ],
)
def test_relations_that_do_not_exist_are_refused(
    values: dict[str, Any], reason: str, bert_teacher: Path, small_tables: tuple[Path, Path], tmp_path: Path
) -> None:
    train, dev = map(str, small_tables)
    wished = DistillationSettings(2, "kd", "teacher-skip", training=QUICK, relation_weight=1.0, **values)
    with pytest.raises(InputError, match=reason):
        distill(str(bert_teacher), train, dev, tmp_path / "student", wished)
    assert not (tmp_path / "student").exists()


def test_families_without_them_are_refused() -> None:
    for family in ("mpnet", "xlnet"):
        with pytest.raises(InputError, match=f"the attention of '{family}' is not that of its queries and keys alone"):
            AttentionVectors.of(_model(family), 2, "minilm")
    model = _model("bert")
    model.config.model_type = "deberta-v2"
    with pytest.raises(InputError, match="relations of models of type 'deberta-v2' are not supported; of these: bert"):
        AttentionVectors.of(model, 2, "minilmv2")
