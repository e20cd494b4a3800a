"""Errors of libraries: what they say in one line, and which of them are of memory."""

from __future__ import annotations

import pytest
import torch

from common.errors import first_line, memory_shortage


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        ValueError("nothing of the kind"),
        KeyError("memory"),
    ],
)
def test_what_is_not_of_memory_is_not_told_as_such(error: Exception) -> None:
    assert memory_shortage(error) is None


def test_shortages_are_told_with_the_sizes_that_the_library_names() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    advice = ": a smaller batch, or a lower length limit, takes less"
    assert memory_shortage(caught.value) == f"out of memory (tried to allocate {1 << 52} bytes){advice}"
    assert memory_shortage(RuntimeError("CUDA error: out of memory\nmore")) == (
        f"out of memory (CUDA error: out of memory){advice}"
    )
    mapped = "unable to mmap 1024 bytes from file <weights>: Cannot allocate memory (12)"
    assert memory_shortage(RuntimeError(mapped)) == f"out of memory ({mapped}){advice}"
    assert memory_shortage(MemoryError()) == "out of memory"


def test_an_error_without_words_is_told_by_its_name() -> None:
    assert (first_line(RuntimeError("\none\ntwo")), first_line(MemoryError())) == ("one", "MemoryError")
