"""Every misfit raises one error that names the argument."""

import pytest
import torch

from kernels.relative_attention import relative_attention

HALF = torch.float16

MISFITS = {
    "q is no tensor": ({"q": [1.0]}, TypeError, "q: expected a tensor"),
    "q has three axes": ({"q": torch.zeros(2, 5, 4)}, ValueError, "q: expected .batch, heads"),
    "q is integer": ({"q": torch.zeros(2, 2, 5, 4, dtype=torch.int64)}, TypeError, "q: expected float32"),
    "q is empty": ({"q": torch.zeros(2, 2, 0, 4)}, ValueError, "q: length 0"),
    "k is missing": ({"k": None}, TypeError, "k: expected a tensor"),
    "k has other heads": ({"k": torch.zeros(2, 3, 5, 4)}, ValueError, "k: expected"),
    "k has another dtype": ({"k": torch.zeros(2, 2, 5, 4, dtype=HALF)}, TypeError, "k: its dtype"),
    "k is elsewhere": ({"k": torch.zeros(2, 2, 5, 4, device="meta")}, ValueError, "k: on meta"),
    "v is shorter": ({"v": torch.zeros(2, 2, 4, 4)}, ValueError, r"v: expected \[2, 2, 5, 4\], got \[2, 2, 4, 4\]"),
    "r is too short": ({"r": torch.zeros(2, 9, 4)}, ValueError, r"r: expected \[1, 2, 10, 4\], got \[1, 2, 9, 4\]"),
    "r has two axes": ({"r": torch.zeros(10, 4)}, ValueError, "r: expected"),
    "r's groups": ({"r": torch.zeros(3, 2, 10, 4)}, ValueError, "r: its 3 groups do not divide"),
    "w without r": ({"r": None}, ValueError, "position_bias: given without r"),
    "u per item": ({"content_bias": torch.zeros(2, 2, 4)}, ValueError, "content_bias: expected"),
    "w's heads": ({"position_bias": torch.zeros(1, 4)}, ValueError, "position_bias: expected"),
    "b's size": ({"segment_bias": torch.zeros(2, 5)}, ValueError, "segment_bias: expected"),
    "three embeddings": ({"segment_embedding": torch.zeros(3, 2, 4)}, ValueError, "segment_embedding: expected"),
    "no embedding": ({"segment_embedding": None}, ValueError, "query_segments: given without segment_embedding"),
    "no key ids": ({"key_segments": None}, ValueError, "key_segments: needed with segment_embedding"),
    "ids too short": ({"query_segments": torch.zeros(2, 4, dtype=torch.int64)}, ValueError, "query_segments: expected"),
    "float ids": ({"key_segments": torch.zeros(2, 5)}, TypeError, "key_segments: expected int64 or int32"),
    "float mask": ({"mask": torch.zeros(2, 5)}, TypeError, "mask: expected bool"),
    "mask's keys": ({"mask": torch.zeros(2, 6, dtype=torch.bool)}, ValueError, "mask: expected"),
    "mask's batch": ({"mask": torch.zeros(3, 5, dtype=torch.bool)}, ValueError, "mask: expected"),
    "mask's axes": ({"mask": torch.zeros(2, 2, 5, 5, dtype=torch.bool)}, ValueError, "mask: expected"),
    "dropout of one": ({"dropout": 1.0}, ValueError, "dropout: expected a probability"),
    "negative dropout": ({"dropout": -0.1}, ValueError, "dropout: expected a probability"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_misfit_is_named(misfit, inputs_of):
    change, error, message = MISFITS[misfit]
    with pytest.raises(error, match="^" + message):
        relative_attention(**(inputs_of(dtype=torch.float32) | change))


def test_an_empty_batch_is_no_misfit(inputs_of):
    empty = inputs_of(batch=0, mask="keys", dtype=torch.float32)
    assert relative_attention(**empty, see_self=True).shape == (0, 2, 5, 4)
