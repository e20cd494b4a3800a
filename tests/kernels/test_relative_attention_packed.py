"""The packed op against the formula over each text alone, in float64, and as a citizen of torch."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.relative_attention_packed import relative_attention_packed

BIASES = ("content_bias", "position_bias", "segment_bias", "segment_embedding")


def packed_inputs(inputs_of, lengths, rest=0, longest=None, dtype=torch.float64, **options):
    """Arguments of the op for texts of these lengths, with `rest` rows behind them."""
    tokens = sum(lengths) + rest
    longest = longest or max(lengths)
    options = {"heads": 2, "d_head": 4} | options
    flat = inputs_of(batch=1, qlen=max(tokens, 1), dtype=dtype, **options)
    given = {name: flat[name][0, :, :tokens].transpose(0, 1).contiguous() for name in "qkv"}
    given |= {name: flat[name] for name in BIASES if name in flat}
    if "query_segments" in flat:
        given["segments"] = flat["query_segments"][0, :tokens]
    if "r" in flat:
        given["r"] = inputs_of(qlen=longest, dtype=dtype, **options | {"seed": 5})["r"]
    given["cu_seqlens"] = torch.tensor([0, *lengths]).cumsum(0).int()
    given["max_length"] = longest
    return given


def each_alone(reference, given):
    """The formula over one text at a time; zeros in rows of no text."""
    out = torch.zeros_like(given["q"])
    ends, longest = given["cu_seqlens"].tolist(), given["max_length"]
    for start, stop in itertools.pairwise(ends):
        if start == stop:
            continue
        text = {name: given[name][start:stop].transpose(0, 1)[None] for name in "qkv"}
        text |= {name: given[name] for name in BIASES if name in given}
        if "r" in given:
            text["r"] = given["r"][:, longest - (stop - start) : longest + (stop - start)]
        if "segments" in given:
            text["query_segments"] = text["key_segments"] = given["segments"][None, start:stop]
        out[start:stop] = reference(**text)[0].transpose(0, 1)
    return out


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_each_text_is_as_if_it_were_alone(data, reference, inputs_of):
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), "lengths")
    given = packed_inputs(
        inputs_of,
        lengths,
        rest=data.draw(st.integers(0, 3), "rows behind"),
        longest=max(lengths) + data.draw(st.integers(0, 4), "room"),
        heads=data.draw(st.integers(1, 3), "heads"),
        positions=data.draw(st.booleans(), "positions"),
        segments=data.draw(st.booleans(), "segments"),
        biases=data.draw(st.booleans(), "biases"),
        seed=data.draw(st.integers(0, 999), "seed"),
    )
    if data.draw(st.booleans(), "int64"):
        given["cu_seqlens"] = given["cu_seqlens"].long()
    torch.testing.assert_close(relative_attention_packed(**given), each_alone(reference, given), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_is_as_good_as_its_type(dtype, reference, inputs_of):
    given = packed_inputs(inputs_of, [9, 3, 12], dtype=dtype, d_head=8)
    exact = {n: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for n, x in given.items()}
    want, plain, got = each_alone(reference, exact), each_alone(reference, given), relative_attention_packed(**given)
    assert got.dtype == dtype
    assert (got - want).abs().max() <= 2 * (plain - want).abs().max() + 1e-5


def test_one_texts_infinities_are_its_own(inputs_of):
    given = packed_inputs(inputs_of, [4, 5, 3], rest=2, dtype=torch.float32)
    want = relative_attention_packed(**given)
    given["v"][5] = torch.inf
    given["k"][6] = given["v"][12:] = torch.nan
    got = relative_attention_packed(**given)
    assert got[4:9].isnan().all()
    for rows in (slice(0, 4), slice(9, 14)):
        assert torch.equal(got[rows], want[rows])


def test_no_text_at_all(inputs_of):
    given = packed_inputs(inputs_of, [0, 0], rest=3, longest=1)
    assert not relative_attention_packed(**given).any()
    given["cu_seqlens"] = given["cu_seqlens"][:1]
    assert not relative_attention_packed(**given).any()


def test_opcheck_and_export(inputs_of):
    given = packed_inputs(inputs_of, [4, 2, 3], dtype=torch.float32)
    names = ("q", "k", "v", "cu_seqlens", "max_length", "r", *BIASES, "segments")
    arguments = (*(given[name] for name in names), 0.5)
    torch.library.opcheck(torch.ops.understudy.relative_attention_packed.default, arguments)

    class Layer(torch.nn.Module):
        def forward(self, q, k, v, cu_seqlens):
            return relative_attention_packed(q, k, v, cu_seqlens, 9)

    tokens, texts = torch.export.Dim("tokens", min=2, max=99), torch.export.Dim("ends", min=2, max=99)
    example = tuple(given[name] for name in ("q", "k", "v", "cu_seqlens"))
    program = torch.export.export(Layer(), example, dynamic_shapes=({0: tokens},) * 3 + ({0: texts},))
    other = packed_inputs(inputs_of, [1, 9], dtype=torch.float32, seed=3)
    again = tuple(other[name] for name in ("q", "k", "v", "cu_seqlens"))
    torch.testing.assert_close(program.module()(*again), Layer()(*again))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"q": None}, TypeError, "q: expected a tensor"),
        ({"q": torch.zeros(2, 3)}, ValueError, r"q: expected \[tokens, heads, d_head\]"),
        ({"k": torch.zeros(8, 2, 4).double()}, ValueError, "k: expected"),
        ({"v": torch.zeros(9, 2, 4)}, TypeError, "v: its dtype"),
        ({"r": torch.zeros(2, 7, 4).double()}, ValueError, r"r: expected \[2, 8, 4\]"),
        ({"r": torch.zeros(2, 8, 4)}, TypeError, "r: its dtype"),
        ({"r": "positions"}, TypeError, "r: expected a tensor"),
        ({"r": None}, ValueError, "position_bias: given without r"),
        ({"content_bias": torch.zeros(2, 5).double()}, ValueError, "content_bias: expected"),
        ({"segments": None}, ValueError, "segments: needed with segment_embedding"),
        ({"segments": torch.zeros(9)}, TypeError, "segments: expected int64 or int32"),
        ({"segments": torch.zeros(8).long()}, ValueError, "segments: expected"),
        ({"segment_embedding": None, "segment_bias": None}, ValueError, "segments: given without"),
        ({"cu_seqlens": [0, 9]}, TypeError, "cu_seqlens: expected a tensor"),
        ({"cu_seqlens": torch.zeros(3)}, TypeError, "cu_seqlens: expected int32 or int64"),
        ({"cu_seqlens": torch.zeros(0).int()}, ValueError, r"cu_seqlens: expected \[texts"),
        ({"cu_seqlens": torch.tensor([0, 4, 10])}, ValueError, "cu_seqlens: expected rising positions"),
        ({"cu_seqlens": torch.tensor([0, 4, 3])}, ValueError, "cu_seqlens: expected rising positions"),
        ({"cu_seqlens": torch.tensor([-1, 3])}, ValueError, "cu_seqlens: expected rising positions"),
        ({"cu_seqlens": torch.tensor([2, 4])}, ValueError, "cu_seqlens: expected rising positions from 0"),
        ({"cu_seqlens": torch.tensor([0, 5])}, ValueError, "max_length: 4 is below the longest text, 5"),
        ({"max_length": 0, "r": None, "position_bias": None}, ValueError, "max_length: expected"),
        ({"max_length": True, "r": None, "position_bias": None}, ValueError, "max_length: expected"),
    ],
)
def test_misfits_are_named(change, kind, message, inputs_of):
    given = packed_inputs(inputs_of, [4, 2, 3]) | change
    with pytest.raises(kind, match=f"^{message}"):
        relative_attention_packed(**given)


def test_a_gradient_is_refused_by_name(inputs_of):
    given = packed_inputs(inputs_of, [4, 2])
    given["position_bias"].requires_grad_()
    with pytest.raises(ValueError, match=r"^position_bias: requires a gradient"):
        relative_attention_packed(**given)
    with torch.no_grad():
        relative_attention_packed(**given)
