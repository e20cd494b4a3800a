"""`linear` against float64 and against PyTorch's own, through whichever library this processor takes."""

import copy

import pytest
import torch
from torch import nn

from kernels import dense
from kernels.dense import linear, use_dense, use_stock

needs_onednn = pytest.mark.skipif(not dense._has_onednn(), reason="PyTorch's own choice stands on this processor")


def make(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(300, 64), (2, 150, 64), (1, 64), (0, 64), (64,)])
@pytest.mark.parametrize("biased", [True, False])
def test_outputs_and_gradients_follow_float64(shape, biased):
    x, weight, bias = make(*shape), make(192, 64, seed=1), make(192, seed=2) if biased else None
    leaves = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    got, want = linear(x, weight, bias), nn.functional.linear(*exact)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-4)
    scale = make(*got.shape, seed=3)
    for one, other in zip(
        torch.autograd.grad((got * scale).sum(), leaves),
        torch.autograd.grad((want * scale).sum(), exact),
        strict=True,
    ):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-3)


@needs_onednn
def test_large_products_take_onednn_and_small_or_foreign_ones_do_not(monkeypatch):
    calls = []
    monkeypatch.setattr(dense, "_product", lambda x, w, b: calls.append(x.shape) or nn.functional.linear(x, w, b))
    large, weight = make(400, 128), make(128, 128, seed=1)
    linear(large, weight)
    assert len(calls) == 1
    linear(large[:4], weight)
    linear(large.double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(large, weight).dtype == torch.bfloat16
    torch.func.vmap(lambda x: linear(x, weight))(large[None])
    assert len(calls) == 1


@needs_onednn
def test_any_layout_of_the_operands(monkeypatch):
    monkeypatch.setattr(dense, "MIN_PRODUCTS", 0)
    x, weight = make(40, 24), make(16, 24, seed=1)
    want = nn.functional.linear(x, weight)
    turned, spread = weight.T.contiguous().T, make(40, 48)
    spread[:, ::2] = x
    for left, right in ((x, turned), (x.T.contiguous().T, weight), (spread[:, ::2], weight)):
        torch.testing.assert_close(linear(left, right), want)
    expanded = torch.ones(1, 1).expand(40, 16)
    leaf = x.clone().requires_grad_()
    linear(leaf, weight).backward(expanded)
    torch.testing.assert_close(leaf.grad, expanded @ weight)


@needs_onednn
def test_a_bias_with_gaps_and_one_that_is_broadcast(monkeypatch):
    monkeypatch.setattr(dense, "MIN_PRODUCTS", 0)
    x, weight = make(40, 24), make(16, 24, seed=1)
    for bias in (make(16, 2)[:, 0], torch.ones(1).expand(16), torch.tensor(2.0), make(1), make(1, 16)):
        torch.testing.assert_close(linear(x, weight, bias), nn.functional.linear(x, weight, bias))


def test_sizes_that_do_not_fit_are_told_as_by_pytorch():
    for weight, bias in ((make(128, 99), None), (make(128, 128), make(99)), (make(2, 128, 128), None)):
        with pytest.raises(RuntimeError) as ours:
            linear(make(400, 128), weight, bias)
        with pytest.raises(RuntimeError) as theirs:
            nn.functional.linear(make(400, 128), weight, bias)
        assert str(ours.value) == str(theirs.value)


@needs_onednn
def test_only_a_few_sizes_are_ever_compiled(monkeypatch):
    sizes = set()
    product = torch.ops.mkldnn._linear_pointwise

    def noted(x, weight, *rest):
        sizes.add((*x.shape, weight.shape[0]))
        return product(x, weight, *rest)

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", noted)
    monkeypatch.setattr(dense, "MIN_PRODUCTS", 0)
    weight = make(32, 64, seed=1).requires_grad_()
    for rows in range(1, 200):
        x = make(rows, 64)
        (got,) = torch.autograd.grad(linear(x, weight).sum(), weight)
        torch.testing.assert_close(got, x.sum(0).expand(32, 64), rtol=1e-4, atol=1e-4)
    assert len(sizes) == 8


@needs_onednn
def test_what_is_frozen_is_not_kept_for_the_gradient(monkeypatch):
    monkeypatch.setattr(dense, "MIN_PRODUCTS", 0)
    kept = []
    x, weight = make(64, 64).requires_grad_(), make(64, 64, seed=1)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        linear(x, weight, make(64)).sum().backward()
    assert len(kept) == 1
    torch.testing.assert_close(x.grad, weight.sum(0).expand(64, 64), rtol=1e-4, atol=1e-4)


@needs_onednn
def test_tracers_and_forward_derivatives_see_pytorchs_own(monkeypatch):
    monkeypatch.setattr(dense, "MIN_PRODUCTS", 0)
    layer, x = use_dense(nn.Sequential(nn.Linear(64, 64))), make(64, 64)
    traced = torch.jit.trace(layer, x)
    torch.testing.assert_close(traced(x[:5]), layer(x[:5]))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent
    torch.testing.assert_close(tangent, torch.ones_like(x) @ layer[0].weight.T, rtol=1e-4, atol=1e-4)


@needs_onednn
def test_the_gradient_can_be_differentiated_again(monkeypatch):
    monkeypatch.setattr(dense, "MIN_PRODUCTS", 0)
    x, weight = make(5, 4).requires_grad_(), make(3, 4, seed=1).requires_grad_()

    def second(function):
        (first,) = torch.autograd.grad(function(x, weight).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), (x, weight))

    for got, want in zip(second(linear), second(nn.functional.linear), strict=True):
        torch.testing.assert_close(got, want)


def test_tracing_sees_a_plain_linear():
    layer = use_dense(nn.Sequential(nn.Linear(128, 128)))
    program = torch.export.export(layer, (make(400, 128),))
    assert "aten.linear" in str(program.graph)
    assert "mkldnn" not in str(program.graph)


class Own(nn.Linear):
    """A subclass, which keeps its own forward pass."""


def test_there_and_back():
    model = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), Own(256, 64))
    stock, x = copy.deepcopy(model), make(400, 128)
    shown = repr(model)
    assert use_dense(model) is model
    assert [type(module) for module in model] == [dense.Linear, nn.ReLU, Own]
    assert repr(model) == shown
    torch.testing.assert_close(model(x), stock(x))
    use_stock(model)
    assert [type(module) for module in model] == [nn.Linear, nn.ReLU, Own]
    assert torch.equal(model(x), stock(x))
