"""The op against the formula over random shapes, masks and segments, and its invariances."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.relative_attention import relative_attention

lengths = st.integers(1, 9)
QUICK = settings(max_examples=30, deadline=None, derandomize=True)


@QUICK
@given(data=st.data())
def test_any_shape_mask_and_segments_follow_the_formula(data, reference, inputs_of):
    groups = data.draw(st.sampled_from([1, 1, 2, 3]), "groups")
    inputs = inputs_of(
        batch=groups * data.draw(st.integers(1, 2), "items per group"),
        heads=data.draw(st.integers(1, 3), "heads"),
        qlen=data.draw(lengths, "qlen"),
        klen=data.draw(lengths, "klen"),
        d_head=data.draw(st.sampled_from([1, 3, 8]), "d_head"),
        groups=groups,
        positions=data.draw(st.booleans(), "positions"),
        segments=data.draw(st.booleans(), "segments"),
        biases=data.draw(st.booleans(), "biases"),
        mask=data.draw(st.sampled_from([None, "keys", "left", "pairs"]), "mask"),
        seed=data.draw(st.integers(0, 999), "seed"),
    )
    inputs["see_self"] = data.draw(st.booleans(), "see_self")
    torch.testing.assert_close(relative_attention(**inputs), reference(**inputs), rtol=0, atol=1e-11)


@QUICK
@given(length=lengths, pads=st.integers(1, 6), left=st.booleans(), seed=st.integers(0, 999))
def test_padding_changes_no_real_row(length, pads, left, seed, inputs_of):
    padded = inputs_of(qlen=length + pads, seed=seed)
    hidden = torch.arange(length + pads) < pads if left else torch.arange(length + pads) >= length
    real = torch.nonzero(~hidden)[:, 0]
    alone = {n: x[:, :, real] if n in "qkv" else x[:, real] if "_segments" in n else x for n, x in padded.items()}
    alone["r"] = padded["r"][:, pads : pads + 2 * length]  # the same relative positions
    out = relative_attention(**padded, mask=hidden[None], see_self=True)
    torch.testing.assert_close(out[:, :, real], relative_attention(**alone))


@QUICK
@given(length=lengths, seed=st.integers(0, 999), add=st.integers(-5, 5))
def test_only_equality_of_segments_counts(length, seed, add, inputs_of):
    inputs = inputs_of(qlen=length, seed=seed)
    renamed = inputs | {n: 7 * inputs[n] + add for n in ("query_segments", "key_segments")}
    assert torch.equal(relative_attention(**renamed), relative_attention(**inputs))


@QUICK
@given(length=lengths, memory=st.integers(1, 6), seed=st.integers(0, 999))
def test_memory_is_attention_over_the_longer_text(length, memory, seed, inputs_of):
    whole = inputs_of(qlen=memory + length, seed=seed)
    tail = whole | {"q": whole["q"][:, :, memory:], "query_segments": whole["query_segments"][:, memory:]}
    tail["r"] = whole["r"][:, : 2 * length + memory]
    torch.testing.assert_close(relative_attention(**tail), relative_attention(**whole)[:, :, memory:])
