"""A fused XLNet against the stock one: outputs and gradients over configurations, and the way there and back."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    XLNetConfig,
    XLNetForSequenceClassification,
    XLNetLMHeadModel,
    XLNetModel,
)

from kernels import dense
from kernels.xlnet import freeze_positions, fuse, is_fused, unfuse

BATCH, LENGTH, VOCABULARY = 4, 9, 50


def make(kind: type = XLNetForSequenceClassification, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    size = {"vocab_size": VOCABULARY, "d_model": 24, "n_layer": 2, "n_head": 3, "d_inner": 32, "num_labels": 3}
    model = kind(XLNetConfig(**(size | {"initializer_range": 0.3} | changes)))
    return model.eval()


def tokens(length: int = LENGTH, batch: int = BATCH) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


def padding(left: bool) -> Tensor:
    keep = torch.arange(LENGTH)[None] < torch.tensor([[LENGTH], [4], [7], [1]])
    return (keep.flip(1) if left else keep).long()


def segments() -> Tensor:
    return torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 2]).expand(BATCH, -1)


def permutation(see_nothing: bool = False) -> dict[str, Tensor]:
    """A factorisation order per item: the later half are targets, each seeing what comes before it in the order."""
    rank = torch.rand(BATCH, LENGTH, generator=torch.Generator().manual_seed(2)).argsort(-1).argsort(-1)
    perm_mask = (rank[:, :, None] <= rank[:, None]).float()
    if not see_nothing:
        perm_mask *= (rank[:, None] >= LENGTH // 2).float()
    chosen = torch.stack([(row >= (0 if see_nothing else LENGTH // 2)).nonzero()[:4, 0] for row in rank])
    return {"perm_mask": perm_mask, "target_mapping": nn.functional.one_hot(chosen, LENGTH).float()}


def memory(model: nn.Module) -> list[Tensor]:
    config = model.config
    return list(torch.randn(config.n_layer, 5, BATCH, config.d_model, generator=torch.Generator().manual_seed(3)))


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bare": ({}, {}),
    "segments": ({}, {"token_type_ids": segments()}),
    "right padding": ({}, {"attention_mask": padding(left=False), "token_type_ids": segments()}),
    "left padding": ({}, {"attention_mask": padding(left=True), "token_type_ids": segments()}),
    "input_mask": ({}, {"input_mask": 1.0 - padding(left=True)}),
    "clamp_len": ({"clamp_len": 3}, {"token_type_ids": segments()}),
    "bi_data": ({"bi_data": True}, {"attention_mask": padding(left=True)}),
    "bi_data and clamp_len": ({"bi_data": True, "clamp_len": 2}, {}),
    "memory": ({"mem_len": 6}, {"mems": 1, "token_type_ids": segments()}),
    "memory and padding": ({"mem_len": 6}, {"mems": 1, "attention_mask": padding(left=False)}),
    "reused memory": ({"mem_len": 6, "reuse_len": 3}, {"mems": 1}),
    "permutation": ({}, permutation()),
    "permutation, blind query": ({}, permutation(see_nothing=True)),
    "permutation, padding, segments": (
        {},
        permutation() | {"attention_mask": padding(left=False), "token_type_ids": segments()},
    ),
    "permutation and memory": ({"mem_len": 6}, permutation() | {"mems": 1, "token_type_ids": segments()}),
    "targets without permutation": ({}, {"target_mapping": permutation()["target_mapping"]}),
    "causal": ({"attn_type": "uni"}, {"token_type_ids": segments()}),
    "causal with memory": ({"attn_type": "uni", "mem_len": 6, "same_length": True}, {"mems": 1}),
}


def outputs_and_gradients(model: nn.Module, arguments: dict[str, Any]) -> dict[str, Tensor]:
    if "mems" in arguments:
        arguments = arguments | {"mems": memory(model), "use_mems": True}
    model.zero_grad()
    result = model(tokens(), output_hidden_states=True, **arguments)
    main = result[0]
    weight = torch.randn(main.shape, generator=torch.Generator().manual_seed(4))
    (main * weight).sum().backward()
    found = {"main": main}
    found |= {f"mems.{i}": x for i, x in enumerate(result.mems or ())}
    found |= {f"hidden.{i}": x for i, x in enumerate(result.hidden_states)}
    found |= {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in found.items()}


@pytest.mark.parametrize("kind", [XLNetModel, XLNetForSequenceClassification, XLNetLMHeadModel])
@pytest.mark.parametrize("case", CASES)
def test_fused_equals_stock(case, kind, monkeypatch):
    monkeypatch.setattr(dense, "MIN_PRODUCTS", 0)  # as in models of the usual size
    configuration, arguments = CASES[case]
    model = make(kind, **configuration)
    want = outputs_and_gradients(model, arguments)
    got = outputs_and_gradients(fuse(model), arguments)
    assert got.keys() - want.keys() <= {n for n in got if not got[n].any()}  # the op gives zeros where stock gives None
    for name, value in want.items():
        scale = max(1.0, float(value.abs().max()))
        assert float((got[name] - value).abs().max()) <= 1e-5 * scale, name


def test_loss_and_tuple_results():
    model = make()
    arguments = {"input_ids": tokens(), "labels": torch.tensor([0, 1, 2, 1]), "return_dict": False, "use_mems": False}
    want = model(**arguments)
    got = fuse(model)(**arguments)
    assert len(got) == len(want) == 2
    for left, right in zip(got, want, strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-5)


def test_embeddings_may_be_given():
    model = make(XLNetModel)
    embedded = torch.randn(BATCH, LENGTH, 24)
    want = model(inputs_embeds=embedded).last_hidden_state
    torch.testing.assert_close(fuse(model)(inputs_embeds=embedded).last_hidden_state, want, rtol=0, atol=1e-5)


def test_attentions_come_from_the_stock_layers():
    model = make(XLNetModel)
    want = model(tokens(), attention_mask=padding(left=True), output_attentions=True)
    got = fuse(model)(tokens(), attention_mask=padding(left=True), output_attentions=True)
    assert len(got.attentions) == 2
    for layer, stock in zip(got.attentions, want.attentions, strict=True):
        torch.testing.assert_close(layer, stock, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_single(dtype):
    model = make(XLNetModel, initializer_range=0.1)
    arguments = {"attention_mask": padding(left=True), "token_type_ids": segments()}
    want = model(tokens(), **arguments).last_hidden_state
    model.to(dtype)
    stock = (model(tokens(), **arguments).last_hidden_state.float() - want).abs().mean()
    fused = (fuse(model)(tokens(), **arguments).last_hidden_state.float() - want).abs().mean()
    assert fused <= 1.5 * stock + 1e-5


def test_training_with_dropout_learns_and_autocast_runs():
    model = fuse(make(dropout=0.1)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    labels, losses = torch.tensor([0, 1, 2, 1]), []
    for _ in range(30):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(tokens(), attention_mask=padding(left=True), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_there_and_back_leaves_the_stock_model(tmp_path):
    model = make()
    want = model(tokens()).logits
    assert not is_fused(model)
    assert fuse(model) is model
    assert fuse(model) is model
    assert is_fused(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert is_fused(twin)
        torch.testing.assert_close(twin(tokens()).logits, want, rtol=0, atol=1e-5)
    model.transformer.save_pretrained(tmp_path)
    assert '"XLNetModel"' in (tmp_path / "config.json").read_text()
    assert type(unfuse(model).transformer) is XLNetModel
    assert torch.equal(model(tokens()).logits, want)


def test_generation_runs_and_agrees():
    model = make(XLNetLMHeadModel)
    want = model.generate(tokens(batch=1), max_new_tokens=4, do_sample=False)
    assert torch.equal(fuse(model).generate(tokens(batch=1), max_new_tokens=4, do_sample=False), want)


def test_what_is_no_xlnet_is_refused():
    with pytest.raises(TypeError, match=r"^model: expected a transformers XLNet model, got BertModel"):
        fuse(BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)))

    class Own(XLNetModel):
        pass

    with pytest.raises(TypeError, match=r"^model: Own is a subclass"):
        fuse(make(Own))


def test_misfits_are_named():
    model = fuse(make(XLNetModel, bi_data=True))
    with pytest.raises(ValueError, match=r"^input_ids: bi_data"):
        model(tokens(batch=3))
    with pytest.raises(ValueError, match=r"^input_ids: give either"):
        model()
    with pytest.raises(ValueError, match=r"^input_mask: give either"):
        model(tokens(), attention_mask=padding(True), input_mask=padding(True))


@pytest.mark.parametrize("case", ["bare", "memory", "clamp_len", "left padding", "permutation"])
def test_frozen_positions_change_nothing(case):
    configuration, arguments = CASES[case]
    model = fuse(make(XLNetModel, **configuration))
    if "mems" in arguments:
        arguments = arguments | {"mems": memory(model), "use_mems": True}
    with torch.no_grad():
        want = model(tokens(), **arguments).last_hidden_state
        freeze_positions(model, 2 * LENGTH)
        layers = [layer.rel_attn for layer in model.layer]
        assert all(layer.frozen_for(LENGTH, LENGTH + 5) is not None for layer in layers)
        torch.testing.assert_close(model(tokens(), **arguments).last_hidden_state, want, rtol=0, atol=1e-6)
        assert all(layer.frozen_for(LENGTH, 2 * LENGTH + 1) is None for layer in layers)


def test_frozen_positions_are_set_aside_when_weights_or_mode_change():
    model = freeze_positions(fuse(make(XLNetModel)), LENGTH)
    layer = model.layer[0].rel_attn
    assert layer.frozen_for(LENGTH, LENGTH) is None  # with gradients
    with torch.no_grad():
        assert layer.frozen_for(LENGTH, LENGTH) is not None
        model.train()
        assert layer.frozen_for(LENGTH, LENGTH) is None
        model.eval()
        before = model(tokens()).last_hidden_state
        layer.r.mul_(2)
        assert layer.frozen_for(LENGTH, LENGTH) is None
        after = model(tokens()).last_hidden_state
        assert not torch.allclose(before, after)
        torch.testing.assert_close(unfuse(model)(tokens()).last_hidden_state, after, rtol=0, atol=1e-5)
        freeze_positions(fuse(model), LENGTH)
        model.double()
        assert model.layer[1].rel_attn.frozen_for(LENGTH, LENGTH) is None
    assert not hasattr(unfuse(model).layer[0].rel_attn, "frozen")


def test_frozen_positions_need_a_fused_model_whose_weights_count_versions():
    with pytest.raises(TypeError, match=r"^model: expected a fused XLNet, got XLNetModel"):
        freeze_positions(make(XLNetModel), LENGTH)
    with pytest.raises(ValueError, match=r"^length: expected at least 1"):
        freeze_positions(fuse(make(XLNetModel)), 0)
    with torch.inference_mode():
        model = freeze_positions(fuse(make(XLNetModel)), LENGTH)
        assert model.layer[0].rel_attn.frozen is None
    reversed_half = freeze_positions(fuse(make(XLNetModel, bi_data=True)), LENGTH)
    assert reversed_half.layer[0].rel_attn.frozen is None


def test_frozen_positions_leave_no_trace_in_what_is_exported():
    model = freeze_positions(fuse(make(XLNetModel)), LENGTH)
    with torch.no_grad():
        program = torch.export.export(model, (tokens(),))
        torch.testing.assert_close(program.module()(tokens())[0], model(tokens())[0], rtol=0, atol=1e-5)


def test_dense_layers_change_with_the_model():
    model = make()
    assert type(fuse(model).logits_proj) is dense.Linear
    assert type(unfuse(model).logits_proj) is nn.Linear


@pytest.mark.parametrize(
    "given", [{"attention_mask": torch.ones(1, 9)}, {"perm_mask": torch.zeros(1, 9, 9)}, {"input_ids": tokens(batch=2)}]
)
def test_packed_texts_take_no_padding_memory_or_permutation(given):
    model = fuse(make(XLNetModel))
    arguments = {"input_ids": tokens(batch=1)} | given
    with torch.no_grad(), pytest.raises(ValueError, match=r"^cu_seq_lens_q: packed texts are a batch of one"):
        model(**arguments, cu_seq_lens_q=torch.tensor([0, LENGTH]), max_length_q=LENGTH)


@pytest.mark.parametrize("configuration", [{"attn_type": "uni"}, {"bi_data": True}])
def test_packed_texts_look_in_both_directions(configuration):
    model = fuse(make(XLNetModel, **configuration))
    with torch.no_grad(), pytest.raises(ValueError, match=r"^cu_seq_lens_q: packed texts are a batch of one"):
        model(tokens(batch=1), cu_seq_lens_q=torch.tensor([0, LENGTH]), max_length_q=LENGTH)


def test_packed_texts_need_their_greatest_length():
    with torch.no_grad(), pytest.raises(ValueError, match=r"^max_length_q: needed"):
        fuse(make(XLNetModel))(tokens(batch=1), cu_seq_lens_q=torch.tensor([0, LENGTH]))


@pytest.mark.parametrize("case", ["bare", "segments", "left padding", "input_mask", "clamp_len", "causal"])
def test_the_last_token_alone_is_the_last_of_all(case):
    configuration, arguments = CASES[case]
    model = fuse(make(**configuration))
    for length in (LENGTH, 1):
        given = {n: x[:, -length:] for n, x in arguments.items()} | {"use_mems": False}
        model.transformer.last_only = False
        want = model(tokens(length), **given).logits
        want.sum().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        model.transformer.last_only = True
        assert model.transformer(tokens(length), **given).last_hidden_state.shape[1] == 1
        got = model(tokens(length), **given).logits
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
        got.sum().backward()
        for name, parameter in model.named_parameters():
            if name in gradients:
                torch.testing.assert_close(
                    parameter.grad, gradients[name], rtol=0, atol=1e-5 * max(1, float(gradients[name].abs().max()))
                )
        model.zero_grad()


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("attn_type", ["bi", "uni"])
def test_the_last_token_alone_does_not_see_where_its_padding_is(attn_type, frozen):
    model = make(attn_type=attn_type)
    with torch.no_grad():
        alone = []
        for row, keep in zip(tokens(), padding(left=False), strict=True):
            alone.append(model(row[None, : keep.sum()], token_type_ids=segments()[:1, : keep.sum()]).logits[0])
        fuse(model).transformer.last_only = True
        if frozen:
            freeze_positions(model, LENGTH)
        for before in (0, 1, 3):
            given = [nn.functional.pad(x, (before, 1)) for x in (tokens(), padding(left=False), segments())]
            names = ("input_ids", "attention_mask", "token_type_ids")
            got = model(**dict(zip(names, given, strict=True)), use_mems=False).logits
            torch.testing.assert_close(got, torch.stack(alone), rtol=0, atol=1e-5)


def test_all_positions_are_computed_where_more_than_the_last_is_asked_for():
    model = fuse(make(XLNetModel, mem_len=6))
    model.last_only = True
    assert model(tokens(), output_hidden_states=True, use_mems=False).last_hidden_state.shape[1] == LENGTH
    assert model(tokens(), use_mems=True).last_hidden_state.shape[1] == LENGTH
    assert model(tokens(), use_mems=False, **permutation()).last_hidden_state.shape[1] == 4
    assert model(tokens(), use_mems=False, mems=memory(model)).last_hidden_state.shape[1] == LENGTH
    embedded = model.word_embedding(tokens())
    assert model(inputs_embeds=embedded, use_mems=False).last_hidden_state.shape[1] == LENGTH
    with torch.no_grad():
        packed = model(tokens(batch=1), cu_seq_lens_q=torch.tensor([0, 4, LENGTH]), max_length_q=5)
    assert packed.last_hidden_state.shape[1] == LENGTH
