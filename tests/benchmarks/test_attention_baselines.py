"""Every competitor computes what the stock model's layer computes, on the CPU and in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import XLNetConfig
from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetRelativeAttention

from benchmarks.attention_baselines import (
    CUDNN,
    FLASH,
    FLEX,
    FLOATS,
    FUSED_PROJECTING,
    IMPLEMENTATIONS,
    Problem,
    make_problem,
    project,
    shift,
)

BATCH, LENGTH, HEADS, D_HEAD = 2, 11, 3, 8
EXACT = [name for name, implementation in IMPLEMENTATIONS.items() if implementation.exact]
NO_BACKWARD = pytest.mark.skip(reason="FlexAttention has no backward pass on a CPU; the benchmark checks it on a GPU")

# It advises to compile, which is for GPUs.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(BATCH, LENGTH, torch.float64, "cpu", heads=HEADS, d_head=D_HEAD)


def stock(p: Problem) -> Tensor:
    """The attended values of transformers' own layer, without its other projections."""
    config = XLNetConfig(d_model=HEADS * D_HEAD, n_head=HEADS, d_inner=8, vocab_size=10, n_layer=1, dropout=0.0)
    layer = XLNetRelativeAttention(config).double()
    biases = {"r_w_bias": p.content_bias, "r_r_bias": p.position_bias, "r_s_bias": p.segment_bias}
    for name, value in {**biases, "seg_embed": p.segment_embedding}.items():
        delattr(layer, name)
        setattr(layer, name, value)
    q, k, v = (x.permute(2, 0, 1, 3) for x in (p.q, p.k, p.v))
    r = torch.einsum("ibh,hnd->ibnd", p.sinusoids[:, None].expand(-1, BATCH, -1), p.weight)
    return layer.rel_attn_core(q, k, v, r, seg_mat=p.one_hot).permute(1, 2, 0, 3)


def with_gradients(call, p: Problem) -> dict[str, Tensor | None]:
    leaves = p.with_leaves()
    out = call(leaves)
    floats = [getattr(leaves, name) for name in FLOATS]
    found = torch.autograd.grad(out, floats, p.upstream, allow_unused=True)
    return {"output": out.detach(), **dict(zip(FLOATS, found, strict=True))}


@pytest.mark.parametrize("name", EXACT)
def test_answers_are_the_stock_layers(name: str, problem: Problem) -> None:
    with torch.no_grad():
        torch.testing.assert_close(IMPLEMENTATIONS[name].call(problem), stock(problem))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=NO_BACKWARD) if name == FLEX else name for name in EXACT],
)
def test_gradients_are_the_stock_layers(name: str, problem: Problem) -> None:
    want = with_gradients(stock, problem)
    got = with_gradients(IMPLEMENTATIONS[name].call, problem)
    given_positions = IMPLEMENTATIONS[name].peer != FUSED_PROJECTING
    assert (got["weight"] is None) == given_positions
    assert (got["r"] is None) != given_positions
    for leaf, gradient in got.items():
        if leaf == "r" and gradient is not None:
            # What the projection makes of it is the gradient of its weight.
            leaf, gradient = "weight", torch.einsum("ph,npd->hnd", problem.sinusoids, gradient)
        if gradient is not None:
            torch.testing.assert_close(gradient, want[leaf], msg=lambda text, leaf=leaf: f"{leaf}: {text}")


def test_the_floor_is_attention_of_the_content_alone(problem: Problem) -> None:
    weights = torch.softmax(torch.einsum("bhid,bhjd->bhij", problem.q, problem.k) / D_HEAD**0.5, -1)
    floor = IMPLEMENTATIONS[FLASH].call(problem)
    torch.testing.assert_close(floor, torch.einsum("bhij,bhjd->bhid", weights, problem.v))
    assert not IMPLEMENTATIONS[FLASH].exact
    assert not IMPLEMENTATIONS[CUDNN].exact
    assert (floor - stock(problem)).norm() > 0.3 * stock(problem).norm()


def test_the_shift_reads_each_pair_at_its_distance() -> None:
    scores = torch.arange(2 * 5 * 10).view(2, 5, 10)
    for i in range(5):
        for j in range(5):
            assert torch.equal(shift(scores)[:, i, j], scores[:, i, 5 - i + j])


def test_a_problem_is_what_the_stock_model_makes(problem: Problem) -> None:
    config = XLNetConfig(d_model=HEADS * D_HEAD, n_head=HEADS, d_inner=8, vocab_size=10, n_layer=1, clamp_len=-1)
    sinusoids = XLNetModel(config).relative_positional_encoding(LENGTH, LENGTH)[:, 0]
    torch.testing.assert_close(problem.sinusoids, sinusoids.double(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(problem.r, torch.einsum("ph,hnd->npd", problem.sinusoids, problem.weight))
    torch.testing.assert_close(project(problem.sinusoids, problem.weight), problem.r)
    ids = problem.segments.T
    differ = torch.nn.functional.one_hot((ids[:, None] != ids[None]).long(), 2)
    assert torch.equal(problem.one_hot, differ.double())
    assert set(problem.segments.unique().tolist()) == {0, 1}
    # Of a size that lets every term count.
    assert 0.5 < problem.r.std() < 2
    again = make_problem(BATCH, LENGTH, torch.float64, "cpu", heads=HEADS, d_head=D_HEAD)
    assert all(torch.equal(one, other) for one, other in zip(vars(problem).values(), vars(again).values(), strict=True))


def test_leaves_are_new_ones(problem: Problem) -> None:
    one, other = problem.with_leaves(), problem.with_leaves()
    for name in FLOATS:
        assert getattr(one, name).requires_grad
        assert getattr(one, name) is not getattr(other, name)
        assert getattr(one, name).data_ptr() == getattr(problem, name).data_ptr()
