"""Packed classifiers against transformers' own, one text at a time: same weights, same logits."""

import copy
import itertools

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    MobileBertConfig,
    MPNetConfig,
    RobertaConfig,
    XLMRobertaConfig,
    XLNetConfig,
)

from kernels import dense
from kernels.packed_classifier import FAMILIES, PackedClassifier, takes
from kernels.xlnet import fuse

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PLACES = {"vocab_size": 90, "max_position_embeddings": 64, "num_labels": 3, "initializer_range": 0.3}
CONFIGS = {
    "albert": AlbertConfig(**SIZES, **PLACES, embedding_size=16),
    "bert": BertConfig(**SIZES, **PLACES),
    "camembert": CamembertConfig(**SIZES, **PLACES, pad_token_id=1),
    "distilbert": DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, **PLACES),
    "electra": ElectraConfig(**SIZES, **PLACES, embedding_size=16),
    "roberta": RobertaConfig(**SIZES, **PLACES, pad_token_id=1),
    "xlm-roberta": XLMRobertaConfig(**SIZES, **PLACES, pad_token_id=1),
    "xlnet": XLNetConfig(
        vocab_size=90, d_model=32, n_layer=2, n_head=4, d_inner=64, num_labels=3, initializer_range=0.3
    ),
}
LENGTHS = [0, 5, 33, 0, 1, 33, 17, 0]
WITHOUT_SEGMENTS = ("camembert", "distilbert", "roberta", "xlm-roberta")


def make(config) -> torch.nn.Module:
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_config(config).eval()


def batch(family: str, rest: int = 0):
    """Token ids, segments or None, and the cumulative lengths; a text holds the padding id in its midst."""
    rng = torch.Generator().manual_seed(4)
    tokens = sum(LENGTHS) + rest
    ids = torch.randint(5, 90, (tokens,), generator=rng)
    ids[9] = 1
    types = None if family in WITHOUT_SEGMENTS else torch.randint(2, (tokens,), generator=rng)
    return ids, types, torch.tensor([0, *LENGTHS]).cumsum(0).int()


def test_every_family_is_tried():
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_text_is_as_if_it_were_alone(family):
    stock = make(CONFIGS[family])
    packed = PackedClassifier(copy.deepcopy(stock), max_length=64)
    ids, types, ends = batch(family, rest=80)  # more rows behind the texts than there are positions
    with torch.inference_mode():
        got = packed(ids, types, ends, 40)
        assert got.shape == (len(LENGTHS), 3)
        for text, (start, stop) in enumerate(itertools.pairwise(ends.tolist())):
            if start == stop:
                continue
            segments = {} if types is None else {"token_type_ids": types[None, start:stop]}
            want = stock(input_ids=ids[None, start:stop], **segments).logits[0]
            torch.testing.assert_close(got[text], want, rtol=0, atol=1e-5)
    answers = got[torch.tensor(LENGTHS) > 0]
    assert (answers.std(0) > 1e-2).all(), "the texts' answers are too alike to tell"


@pytest.mark.parametrize("family", ["bert", "xlnet"])
def test_positions_beyond_what_was_prepared(family):
    stock = make(CONFIGS[family])
    packed = PackedClassifier(copy.deepcopy(stock), max_length=8)
    ids, types, ends = batch(family)
    wide = PackedClassifier(copy.deepcopy(stock), max_length=64)
    with torch.inference_mode():
        torch.testing.assert_close(packed(ids, types, ends, 33), wide(ids, types, ends, 48), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        MobileBertConfig(num_labels=3, num_hidden_layers=1),
        MPNetConfig(**SIZES, num_labels=3),
        DebertaV2Config(**SIZES, num_labels=3),
        XLNetConfig(d_model=32, n_layer=1, n_head=4, d_inner=64, attn_type="uni"),
        XLNetConfig(d_model=32, n_layer=1, n_head=4, d_inner=64, bi_data=True),
        XLNetConfig(d_model=32, n_layer=1, n_head=4, d_inner=64, summary_type="first"),
        BertConfig(**SIZES, is_decoder=True),
    ],
    ids=lambda config: config.model_type,
)
def test_what_cannot_be_packed_is_refused(config):
    model = make(config)
    assert not takes(model)
    with pytest.raises(ValueError, match=r"^model: this \w+ cannot be run packed"):
        PackedClassifier(model, max_length=8)


def test_what_is_no_free_sequence_classifier_is_refused():
    tagger = AutoModelForTokenClassification.from_config(CONFIGS["bert"])
    assert not takes(tagger)
    with pytest.raises(ValueError, match=r"^model: this BertForTokenClassification cannot be run packed"):
        PackedClassifier(tagger, max_length=8)
    packed = PackedClassifier(make(copy.deepcopy(CONFIGS["xlnet"])), max_length=8)
    with pytest.raises(ValueError, match=r"^model: it belongs to a PackedClassifier already"):
        PackedClassifier(packed.model, max_length=8)


def test_half_precision_and_attentions_asked_for_in_the_config():
    config = copy.deepcopy(CONFIGS["xlnet"])
    config.output_attentions = True
    stock = make(config)
    ids, types, ends = batch("xlnet")
    with torch.inference_mode():
        want = stock(input_ids=ids[None, 5:38], token_type_ids=types[None, 5:38]).logits[0]
        got = PackedClassifier(copy.deepcopy(stock), max_length=64)(ids, types, ends, 33)[2]
        half = PackedClassifier(copy.deepcopy(stock).bfloat16(), max_length=64)(ids, types, ends, 33)[2]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    torch.testing.assert_close(half.float(), want, rtol=0, atol=0.1)
    with torch.no_grad(), pytest.raises(ValueError, match=r"^output_attentions: packed texts"):
        fuse(stock)(input_ids=ids[None], cu_seq_lens_q=ends, max_length_q=33)


def test_all_that_makes_it_fast_is_in_place():
    packed = PackedClassifier(make(copy.deepcopy(CONFIGS["xlnet"])).train(), max_length=8)
    assert not packed.model.training
    assert type(packed.model.logits_proj) is dense.Linear
    with torch.no_grad():
        assert all(layer.rel_attn.frozen_for(8, 8) is not None for layer in packed.model.transformer.layer)
