"""The op against the formula in float64, and as a citizen of torch: gradients, tracing, export, dropout."""

from typing import Any

import pytest
import torch
from torch import nn

from kernels import eager
from kernels.relative_attention import relative_attention

CASES: dict[str, dict[str, Any]] = {
    "all terms": {},
    "plain": {"positions": False, "segments": False, "biases": False},
    "content bias only": {"positions": False, "segments": False},
    "positions without biases": {"segments": False, "biases": False},
    "segments without positions": {"positions": False},
    "one token": {"qlen": 1},
    "one query over memory": {"qlen": 1, "klen": 6, "mask": "pairs"},
    "memory": {"qlen": 4, "klen": 9},
    "fewer keys than queries": {"qlen": 6, "klen": 3},
    "scattered padding": {"qlen": 7, "mask": "keys"},
    "left padding": {"batch": 3, "qlen": 6, "klen": 8, "mask": "left"},
    "hidden pairs": {"qlen": 6, "klen": 7, "mask": "pairs"},
    "two encodings": {"batch": 4, "groups": 2, "mask": "keys"},
    "one item": {"batch": 1, "heads": 1, "d_head": 1},
}


@pytest.mark.parametrize("see_self", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_follow_the_formula(case, see_self, reference, inputs_of, gradients_of):
    inputs = inputs_of(**CASES[case]) | {"see_self": see_self}
    dead = _dead_rows(inputs)
    got, want = gradients_of(relative_attention, inputs), gradients_of(reference, inputs)
    torch.testing.assert_close(got["output"], want["output"], rtol=0, atol=1e-12)
    if dead:  # there the gradient is the common implementation's, not that of a constant mean
        return
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=0, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_as_good_as_its_type(dtype, reference, inputs_of, gradients_of):
    inputs = inputs_of(qlen=9, klen=12, d_head=8, mask="left", dtype=dtype) | {"see_self": True}
    exact = {n: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for n, x in inputs.items()}
    want = gradients_of(reference, exact)
    plain, got = gradients_of(reference, inputs), gradients_of(relative_attention, inputs)
    for name, value in want.items():
        assert (got[name] - value).abs().max() <= 2 * (plain[name] - value).abs().max() + 1e-5, name


def test_without_positions_and_segments_it_is_plain_attention(inputs_of):
    inputs = inputs_of(positions=False, segments=False, biases=False, qlen=6, klen=8, mask="pairs")
    inputs["mask"][:, :, 0] = False
    got = relative_attention(**inputs, scale=0.3)
    want = nn.functional.scaled_dot_product_attention(
        inputs["q"], inputs["k"], inputs["v"], attn_mask=~inputs["mask"][:, None], scale=0.3
    )
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_a_query_that_sees_no_key_gets_the_mean_of_all_values(dtype, inputs_of):
    inputs = inputs_of(qlen=4, klen=6, dtype=dtype)
    inputs["mask"] = torch.ones(1, 6, dtype=torch.bool)
    out = relative_attention(**inputs)
    want = inputs["v"].double().mean(2, keepdim=True).to(dtype).expand_as(out)
    torch.testing.assert_close(out, want)


def test_gradient_of_a_query_that_sees_no_key_is_that_of_an_additive_mask(inputs_of, gradients_of):
    inputs = inputs_of(positions=False, segments=False, biases=False, qlen=3)
    inputs["mask"] = torch.eye(3, dtype=torch.bool).flip(0)[None] | (torch.arange(3) == 1)[None, :, None]

    def additive(q, k, v, mask):
        scores = q @ k.mT * q.shape[-1] ** -0.5 - 1e30 * mask[:, None]
        return scores.softmax(-1) @ v

    got, want = gradients_of(relative_attention, inputs), gradients_of(additive, inputs)
    assert got["q"][:, :, 1].abs().max() > 1e-3
    for name in want:
        torch.testing.assert_close(got[name], want[name])


def test_the_longest_texts(inputs_of):
    inputs = inputs_of(batch=1, heads=1, qlen=8192, d_head=16, mask="left", dtype=torch.float32) | {"see_self": True}
    got = relative_attention(**inputs)
    exact = {n: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for n, x in inputs.items()}
    for row in (0, 1, 4095, 8190, 8191):
        # Row by row: the whole matrix of scores would take gigabytes in float64.
        distance = row - torch.arange(8192)
        scores = (exact["q"][0, :, row] + exact["content_bias"])[:, None] @ exact["k"][0].mT
        turned = (exact["q"][0, :, row] + exact["position_bias"])[:, None]
        scores = scores + turned @ exact["r"][:, 8192 - distance].mT
        apart = (inputs["query_segments"][0, row] != inputs["key_segments"][0]).long()
        segment = (exact["q"][0, :, row] + exact["segment_bias"])[:, None] @ exact["segment_embedding"][apart, 0].mT
        scores = (scores + segment) * 16**-0.5
        hidden = inputs["mask"][0] & (torch.arange(8192) != row)
        want = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ exact["v"][0]
        torch.testing.assert_close(got[0, :, row].double(), want[:, 0], rtol=0, atol=1e-5)


def test_result_does_not_depend_on_the_blocks(monkeypatch, inputs_of, gradients_of):
    inputs = inputs_of(qlen=50, klen=63, batch=4, groups=2, mask="keys", dtype=torch.float64) | {"see_self": True}
    whole = gradients_of(relative_attention, inputs)
    monkeypatch.setattr(eager, "BLOCK_SCORES", 1)
    for name, value in gradients_of(relative_attention, inputs).items():
        torch.testing.assert_close(value, whole[name])


def test_strides_do_not_matter(inputs_of, gradients_of):
    inputs = inputs_of(qlen=5, klen=7)
    strided = {n: x.transpose(0, -1).contiguous().transpose(0, -1) for n, x in inputs.items()}
    want = gradients_of(relative_attention, inputs)
    for name, value in gradients_of(relative_attention, strided).items():
        torch.testing.assert_close(value, want[name])


def test_gradients_share_no_memory(inputs_of):
    inputs = inputs_of(dtype=torch.float32)
    floats = [x.requires_grad_() for x in inputs.values() if x.is_floating_point()]
    gradients = torch.autograd.grad(relative_attention(**inputs).sum(), floats)
    assert len({g.untyped_storage().data_ptr() for g in gradients}) == len(floats) == 8


def test_logsumexp_of_each_row(inputs_of):
    inputs = inputs_of(positions=False, segments=False, biases=False, qlen=4, mask="pairs")
    inputs["mask"][:, 2] = True
    a = inputs
    _, got = torch.ops.understudy.relative_attention(
        a["q"], a["k"], a["v"], *(None,) * 7, a["mask"], None, False, 1.0, 0.0
    )
    scores = (a["q"] @ a["k"].mT).masked_fill(a["mask"][:, None], -torch.inf)
    torch.testing.assert_close(got, scores.logsumexp(-1))


@pytest.mark.parametrize("case", ["all terms", "left padding", "two encodings"])
def test_gradcheck(case, inputs_of):
    inputs = inputs_of(**(CASES[case] | {"qlen": 3, "d_head": 2})) | {"see_self": True}
    names = [n for n in inputs if isinstance(inputs[n], torch.Tensor) and inputs[n].is_floating_point()]

    def run(*values):
        torch.manual_seed(0)
        return relative_attention(**(inputs | dict(zip(names, values, strict=True))), dropout=0.3)

    assert torch.autograd.gradcheck(run, [inputs[n].requires_grad_() for n in names], fast_mode=False)


@pytest.mark.parametrize("case", ["all terms", "plain", "left padding"])
def test_opcheck(case, inputs_of):
    inputs = inputs_of(**CASES[case], dtype=torch.float32)
    ordered = [inputs.get(name) for name in ("q", "k", "v")]
    ordered.append(inputs["r"][None] if "r" in inputs else None)
    ordered += [inputs.get(n) for n in ("content_bias", "position_bias", "segment_bias", "segment_embedding")]
    ordered = [x.requires_grad_() if x is not None else None for x in ordered]
    ordered += [inputs.get(n) for n in ("query_segments", "key_segments", "mask")]
    torch.library.opcheck(torch.ops.understudy.relative_attention.default, (*ordered, None, False, 0.5, 0.0))


class _Layer(nn.Module):
    def forward(self, q, k, v, r, embedding, query_segments, key_segments, mask):
        return relative_attention(
            q, k, v, r, segment_embedding=embedding, query_segments=query_segments, key_segments=key_segments, mask=mask
        )


def _layer_arguments(inputs):
    names = ("q", "k", "v", "r", "segment_embedding", "query_segments", "key_segments", "mask")
    return tuple(inputs[name] for name in names)


def test_export_with_dynamic_batch_and_length(inputs_of):
    batch, half = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("half", min=2, max=512)
    length = 2 * half
    shapes = ({0: batch, 2: length},) * 3 + ({1: 4 * half}, {}) + ({0: batch, 1: length},) * 3
    example = _layer_arguments(inputs_of(batch=3, qlen=6, mask="keys", biases=False))
    program = torch.export.export(_Layer(), example, dynamic_shapes=shapes)
    assert "understudy.relative_attention" in str(program.graph)
    other = _layer_arguments(inputs_of(batch=5, qlen=18, mask="keys", biases=False, seed=3))
    torch.testing.assert_close(program.module()(*other), _Layer()(*other))


def test_compile_keeps_one_graph(inputs_of):
    arguments = _layer_arguments(inputs_of(mask="keys", biases=False))
    q = arguments[0].requires_grad_()
    compiled = torch.compile(_Layer(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), _Layer()(*arguments))
    (got,) = torch.autograd.grad(compiled(*arguments).sum(), q)
    (want,) = torch.autograd.grad(_Layer()(*arguments).sum(), q)
    torch.testing.assert_close(got, want)


def test_dropout_drops_weights_and_keeps_their_mean(inputs_of):
    inputs = inputs_of(batch=4, heads=4, qlen=32, d_head=32, dtype=torch.float32)
    inputs["v"] = torch.eye(32).expand(4, 4, 32, 32)  # so that the output is the weights
    weights = relative_attention(**inputs)
    torch.manual_seed(0)
    dropped = relative_attention(**inputs, dropout=0.25)
    kept = dropped != 0
    assert 0.73 < kept.float().mean() < 0.77
    torch.testing.assert_close(dropped[kept], weights[kept] / 0.75)
    torch.manual_seed(0)
    assert torch.equal(relative_attention(**inputs, dropout=0.25), dropped)
    assert not torch.equal(relative_attention(**inputs, dropout=0.25), dropped)


def _dead_rows(inputs) -> bool:
    """Whether some query sees no key."""
    if inputs.get("mask") is None:
        return False
    qlen, klen = inputs["q"].shape[2], inputs["k"].shape[2]
    mask = inputs["mask"] if inputs["mask"].ndim == 3 else inputs["mask"][:, None].expand(-1, qlen, -1)
    own = torch.ones(qlen, klen, dtype=torch.bool).tril(klen - qlen).triu(klen - qlen)
    return bool((mask & ~(own & inputs["see_self"])).all(-1).any())
