"""Which tile sizes run: the measured ones where there is a table, else the first that the text fills."""

import pytest
import torch

from kernels import configurations
from kernels.configurations import Configuration, candidates, configuration, forced, write_table

HALF = torch.float16


@pytest.fixture(autouse=True)
def _fresh_table(monkeypatch, tmp_path):
    monkeypatch.setattr(configurations, "TABLE", tmp_path / "table.json")
    configurations._table.cache_clear()
    yield
    configurations._table.cache_clear()


@pytest.mark.parametrize("kernel", configurations.KERNELS)
@pytest.mark.parametrize("block_d", [16, 32, 64, 128])
def test_every_kernel_has_tiles_that_its_code_takes(kernel, block_d):
    for dtype in (torch.float32, HALF) if block_d < 128 else (HALF,):
        for sizes in candidates(kernel, dtype, block_d):
            assert sizes.rows == sizes.block or (kernel == "forward" and sizes.rows == 2 * sizes.block)
            assert sizes.block >= 16
        assert set(candidates(kernel, dtype, block_d, roomy=False)) <= set(candidates(kernel, dtype, block_d))


def test_without_a_table_short_texts_get_short_tiles():
    sizes = {length: configuration("forward", HALF, 64, length) for length in (1, 33, 64, 65, 4096)}
    assert sizes[1].rows == 32
    assert sizes[33].rows == sizes[64].rows == 64
    assert sizes[65].rows == sizes[4096].rows == 128
    assert configuration("forward", HALF, 64, 4096, roomy=False).rows == 32


def test_the_table_decides_for_its_lengths():
    chosen = Configuration(64, 64, 8, 3)
    entry = {"kernel": "forward", "dtype": "float16", "block_d": 64, "length": 512, **chosen._asdict()}
    stale = {**entry, "length": 1024, "block": 48}
    write_table(configurations.TABLE, [entry, stale], "a GPU")
    assert [configuration("forward", HALF, 64, length) for length in (257, 512)] == [chosen, chosen]
    # A shape without an entry, tiles that no longer ship, another precision, and less room than was measured with.
    first = candidates("forward", HALF, 64)[0]
    assert configuration("forward", HALF, 64, 513) == first
    assert configuration("forward", torch.bfloat16, 64, 512) == first
    assert configuration("forward", HALF, 64, 512, roomy=False) == candidates("forward", HALF, 64, roomy=False)[0]


def test_forced_sizes_hold_inside_only():
    usual, other = configuration("keys", HALF, 64, 99), Configuration(16, 16, 1, 1)
    with forced("keys", other):
        assert configuration("keys", HALF, 64, 99) == other
        assert configuration("forward", HALF, 64, 99) != other
    assert configuration("keys", HALF, 64, 99) == usual
