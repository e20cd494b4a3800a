"""The CUDA kernels against float64: on a GPU, or in Triton's interpreter where TRITON_INTERPRET=1 says so.
`test_triton_kernels.py` runs this file in a process of its own, since that is chosen before Triton is imported.

The rule, for the output and every gradient: error(kernel) ≤ 2 · error(PyTorch in the same precision) + 1e-5, in root
mean square, and twice that for the greatest error. The gradients of biases and embeddings are few numbers, each a
single draw of rounding: their greatest errors count, and PyTorch's are pooled. In bfloat16 the interpreter cuts digits
off where a GPU rounds, half as exact and to one side: there the factor is 6.
"""

import itertools
import os
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import eager, triton_backward, triton_forward
from kernels.arguments import DIFFERENTIABLE, Arguments
from kernels.configurations import Configuration, forced

SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16
EVERY = [SINGLE, HALF, BRAIN]
SMALL = ("content_bias", "position_bias", "segment_bias", "segment_embedding")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

# Shapes and options of the kernels' paths, with the precisions each is tried in.
CASES: dict[str, tuple[dict[str, Any], list[torch.dtype]]] = {
    "one token": ({"qlen": 1}, [BRAIN]),
    "seven": ({"heads": 1, "qlen": 7, "mask": "pairs", "see_self": True}, EVERY),
    "fifty": ({"qlen": 50, "heads": 1, "mask": "left", "see_self": True}, [HALF]),
    "two tiles and one": ({"qlen": 65, "heads": 1, "batch": 1}, [SINGLE]),
    "four tiles less one": ({"qlen": 127, "heads": 1, "batch": 1, "mask": "left"}, [HALF]),
    "memory": ({"heads": 1, "qlen": 20, "klen": 45, "mask": "pairs"}, [HALF]),
    "one query over memory": ({"heads": 1, "qlen": 1, "klen": 70}, [SINGLE]),
    "fewer keys than queries": ({"heads": 1, "qlen": 40, "klen": 10, "mask": "keys", "see_self": True}, [SINGLE]),
    "two encodings": ({"batch": 4, "heads": 1, "groups": 2, "qlen": 20, "mask": "left"}, [SINGLE, BRAIN]),
    "plain": ({"heads": 1, "qlen": 33, "positions": False, "segments": False, "biases": False}, [HALF, BRAIN]),
    "positions only": ({"heads": 1, "qlen": 33, "segments": False}, [SINGLE]),
    "segments only": ({"heads": 1, "qlen": 33, "positions": False, "biases": False}, [SINGLE]),
    "an odd head size": ({"heads": 1, "qlen": 20, "d_head": 24}, [SINGLE]),
    "head size 64": ({"heads": 1, "qlen": 33, "d_head": 64}, [SINGLE, HALF]),
    "head size 128": ({"heads": 1, "qlen": 17, "d_head": 128}, [BRAIN]),
}
if os.environ.get("UNDERSTUDY_SOAK") or not INTERPRETED:
    CASES |= {f"length {n}": ({"qlen": n, "mask": "left", "see_self": True}, EVERY) for n in (63, 64, 128, 704)}


def arguments(inputs: dict[str, Any], dropout: float = 0.0) -> Arguments:
    given = {"seed": None, "see_self": False, **inputs, "scale": inputs["q"].shape[-1] ** -0.5, "dropout": dropout}
    if "r" in given:
        given["r"] = given["r"] if given["r"].ndim == 4 else given["r"][None]
    if dropout:
        given["seed"] = torch.tensor(1234)
    given = {n: x.to(DEVICE) if isinstance(x, Tensor) and n != "seed" else x for n, x in given.items()}
    return Arguments(**dict.fromkeys(Arguments._fields) | given)


def upstream(a: Arguments) -> Tensor:
    """A fixed random gradient of the output."""
    return torch.randn(a.q.shape, generator=torch.Generator().manual_seed(1)).to(a.q)


def common(a: Arguments, keep: Tensor | None = None) -> Tensor:
    """The op as it is commonly written in PyTorch: every step in the arguments' precision, additive mask."""
    qlen, klen = a.q.shape[2], a.k.shape[2]
    i, j = torch.arange(qlen, device=a.q.device)[:, None], torch.arange(klen, device=a.q.device)[None]

    def plus(bias: Tensor | None) -> Tensor:
        return a.q if bias is None else a.q + bias[:, None]

    scores = plus(a.content_bias) @ a.k.mT
    if a.r is not None:
        r = a.r.repeat_interleave(a.q.shape[0] // a.r.shape[0], 0)
        scores = scores + (plus(a.position_bias) @ r.mT).gather(3, (qlen - i + j).expand(*scores.shape))
    if a.segment_embedding is not None:
        assert a.query_segments is not None
        assert a.key_segments is not None
        each = torch.einsum("bhid,shd->bhis", plus(a.segment_bias), a.segment_embedding)
        differ = (a.query_segments[:, None, :, None] != a.key_segments[:, None, None]).long()
        scores = scores + each.gather(3, differ.expand(*scores.shape))
    scores = scores * a.scale
    if a.mask is not None:
        mask = a.mask[:, None, None] if a.mask.ndim == 2 else a.mask[:, None]
        own = (j == i + klen - qlen) & a.see_self
        scores = scores - (mask & ~own).to(scores.dtype) * (65500 if scores.dtype == torch.float16 else 1e30)
    weights = scores.softmax(-1)
    return (weights if keep is None else weights * keep) @ a.v


def outcome(a: Arguments, grad: Tensor, keep: Tensor | None = None) -> dict[str, Tensor]:
    """Output and gradients of the common form, by autograd."""
    floats = {n: getattr(a, n).detach().clone().requires_grad_() for n in DIFFERENTIABLE if getattr(a, n) is not None}
    out = common(a._replace(**floats), keep)
    gradients = torch.autograd.grad(out, list(floats.values()), grad)
    return {"output": out.detach(), **dict(zip(floats, gradients, strict=True))}


def double(a: Arguments) -> Arguments:
    return Arguments(*(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in a))


def fused(a: Arguments, grad: Tensor) -> dict[str, Tensor]:
    out, logsumexp = triton_forward.forward(a)
    present = [n for n in DIFFERENTIABLE if getattr(a, n) is not None]
    return {"output": out, **dict(zip(present, triton_backward.backward(a, grad, out, logsumexp), strict=True))}


def assert_rule(got: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    assert got.keys() == exact.keys()
    factor = 6 if INTERPRETED and got["output"].dtype == BRAIN else 2
    errors = {name: ((plain[name].double() - value), (got[name].double() - value)) for name, value in exact.items()}
    pooled = max((float(allowed.abs().max()) for name, (allowed, _) in errors.items() if name in SMALL), default=0.0)
    for name, (allowed, error) in errors.items():
        if name in SMALL:
            bounds = [(float(error.abs().max()), factor * pooled)]
        else:
            # The greatest of thousands of roundings varies by a factor of two and a half from draw to draw, their root
            # mean square hardly.
            bounds = [(_rms(error), factor * _rms(allowed))]
            bounds += [(float(error.abs().max()), 2 * factor * float(allowed.abs().max()))]
        for found, bound in bounds:
            assert found <= bound + 1e-5, f"{name}: {found:.2e} above {bound:.2e}"
        assert got[name].dtype == plain[name].dtype
        assert got[name].shape == exact[name].shape


def _rms(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


@pytest.mark.parametrize(("case", "dtype"), [(c, d) for c, (_, dtypes) in CASES.items() for d in dtypes])
def test_kernels_are_as_exact_as_pytorch(case, dtype, inputs_of):
    options = {"d_head": 16, "dtype": dtype} | CASES[case][0]
    see_self = options.pop("see_self", False)
    a = arguments(inputs_of(**options) | {"see_self": see_self})
    grad = upstream(a)
    assert_rule(fused(a, grad), outcome(a, grad), outcome(double(a), grad.double()))


@pytest.mark.parametrize("sizes", [(32, 16), (64, 32), (16, 16)])
@pytest.mark.parametrize("case", ["two tiles and one", "memory", "fewer keys than queries", "two encodings", "plain"])
def test_forward_with_other_tiles(case, sizes, inputs_of):
    options = {"d_head": 16, "dtype": SINGLE} | CASES[case][0]
    see_self = options.pop("see_self", False)
    a = arguments(inputs_of(**options) | {"see_self": see_self})
    with forced("forward", Configuration(*sizes, 4, 1)):
        out, logsumexp = triton_forward.forward(a)
    want, natural = eager.forward(double(a))
    torch.testing.assert_close(out.double(), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(logsumexp.double(), natural, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [(16, 16), (32, 16), (64, 32)])
@pytest.mark.parametrize(("positions", "dtype"), [(True, SINGLE), (True, HALF), (False, SINGLE), (False, BRAIN)])
def test_packed_texts(positions, dtype, sizes, inputs_of):
    lengths, longest, rest = [5, 33, 0, 1, 40], 48, 3
    options = {"batch": 1, "d_head": 16, "positions": positions, "segments": positions, "dtype": dtype}
    a = arguments(inputs_of(qlen=sum(lengths) + rest, **options))
    a = a._replace(key_segments=a.query_segments)
    if positions:
        a = a._replace(r=a.r[:, :, : 2 * longest].contiguous())
    ends = torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()
    with forced("forward", Configuration(*sizes, 4, 1)):
        got = triton_forward.forward_packed(a, ends, longest)
    assert not got[:, :, sum(lengths) :].any()
    for start, stop in itertools.pairwise(ends.tolist()):
        if start == stop:
            continue
        text = {name: getattr(a, name)[:, :, start:stop] for name in "qkv"}
        if positions:
            text |= dict.fromkeys(("query_segments", "key_segments"), a.query_segments[:, start:stop])
            text["r"] = a.r[:, :, longest - (stop - start) : longest + (stop - start)]
        alone = a._replace(**text)
        exact, plain = common(double(alone)), common(alone).double()
        factor = 6 if INTERPRETED and dtype == BRAIN else 2
        error = float((got[:, :, start:stop].double() - exact).abs().max())
        assert error <= factor * float((plain - exact).abs().max()) + 1e-5


@pytest.mark.skipif(INTERPRETED, reason="hours in the interpreter")
@pytest.mark.parametrize("dtype", [HALF, BRAIN])
def test_the_longest_texts(dtype, inputs_of):
    a = arguments(inputs_of(batch=1, heads=1, qlen=8192, d_head=64, mask="left", dtype=dtype) | {"see_self": True})
    grad = upstream(a)
    assert_rule(fused(a, grad), outcome(a, grad), outcome(double(a), grad.double()))


@pytest.mark.skipif(INTERPRETED, reason="needs 40 GiB")
def test_offsets_beyond_32_bits():
    batch, heads, length, d_head = 2049, 8, 2048, 64  # over 2³¹ elements a tensor
    if torch.cuda.get_device_properties(0).total_memory < 60 << 30:
        pytest.skip("the GPU has less than 60 GiB")
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=HALF, device="cuda")

    q, k, v = (normal(batch, heads, length, d_head) for _ in range(3))
    a = Arguments(
        **dict.fromkeys(Arguments._fields) | {"q": q, "k": k, "v": v, "r": normal(1, heads, 2 * length, d_head)}
    )
    a = a._replace(see_self=False, scale=d_head**-0.5, dropout=0.0)
    out = triton_forward.forward(a)[0]
    for item in (0, batch - 1):
        alone = a._replace(**{name: getattr(a, name)[item : item + 1] for name in "qkv"})
        error = float((out[item].double() - common(double(alone))[0]).abs().max())
        assert error <= 2 * float((common(alone).double() - common(double(alone))).abs().max()) + 1e-5


def test_a_query_that_sees_no_key(inputs_of):
    inputs = inputs_of(batch=1, qlen=20, klen=40, d_head=16, dtype=SINGLE)
    inputs["mask"] = torch.zeros(1, 20, 40, dtype=torch.bool)
    inputs["mask"][:, 3] = True
    a = arguments(inputs)
    grad = upstream(a)
    got, exact = fused(a, grad), outcome(double(a), grad.double())
    torch.testing.assert_close(got["output"][:, :, 3], a.v.mean(2))
    assert_rule(got, outcome(a, grad), exact)


def test_logsumexp_is_the_eager_one(inputs_of):
    a = arguments(inputs_of(heads=1, qlen=20, klen=40, d_head=16, mask="pairs", dtype=SINGLE))
    a.mask[:, 3] = True
    torch.testing.assert_close(triton_forward.forward(a)[1], eager.forward(a)[1])


def test_dropout_is_the_same_forwards_and_backwards(inputs_of):
    a = arguments(inputs_of(heads=1, qlen=40, klen=16, d_head=16, mask="keys", dtype=SINGLE), dropout=0.25)
    weights = triton_forward.forward(a._replace(dropout=0.0, v=torch.eye(16).to(a.v).expand_as(a.v)))[0]
    keep = triton_forward.forward(a._replace(v=torch.eye(16).to(a.v).expand_as(a.v)))[0] / weights.clamp_min(1e-30)
    kept = keep[weights > 0] > 0
    assert 0.72 < kept.float().mean() < 0.78
    torch.testing.assert_close(keep[weights > 0][kept], torch.full_like(keep[weights > 0][kept], 1 / 0.75))
    grad = upstream(a)
    exact = outcome(double(a), grad.double(), keep.double())
    assert_rule(fused(a, grad), outcome(a, grad, keep), exact)


def test_strides_and_repeats(inputs_of):
    a = arguments(inputs_of(qlen=9, klen=12, d_head=16, mask="pairs", dtype=SINGLE))
    grad = torch.ones_like(a.q[:1, :1, :1, :1]).expand(a.q.shape)
    want = fused(a, grad)
    turned = a._replace(
        q=a.q.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3), k=a.k.mT.contiguous().mT, r=a.r.mT.contiguous().mT
    )
    for name, value in fused(turned, grad).items():
        torch.testing.assert_close(value, want[name])
        assert name not in ("q", "k", "r") or value.stride() == getattr(turned, name).stride()
    again = fused(a, grad)
    assert all(torch.equal(again[name], want[name]) for name in want if name != "r")  # r's gradient is added atomically


def test_an_empty_batch(inputs_of):
    a = arguments(inputs_of(batch=0, d_head=16, dtype=SINGLE))
    got = fused(a, torch.empty_like(a.q))
    assert got["output"].shape == (0, 2, 5, 16)
    assert not got["r"].any()
