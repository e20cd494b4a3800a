"""Tile sizes of the CUDA kernels: which ones ship, and which of them runs at a length.

The tests compile every one of them ahead of time, for compute capabilities 8.0 and 9.0, and see that it keeps all of
its values in registers there. Which is fastest only a GPU can tell: `make gpu` times them all and writes the fastest to
a table. Where `tile_table.json` lies beside this file, it decides; else the first whose tiles the text fills.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

KERNELS = ("forward", "queries", "keys")
# Upper bounds of the lengths (of the keys) that share a row of the table; the last row has no bound.
LENGTHS = (64, 128, 256, 512, 1024, 8192)
TABLE = Path(__file__).with_name("tile_table.json")

_forced: dict[str, Configuration] = {}


class Configuration(NamedTuple):
    """Tile sizes of a kernel: queries and keys a tile, warps, and pipeline stages.

    `rows` is `block`, or in the forward kernel twice as much.
    """

    rows: int
    block: int
    warps: int
    stages: int


def candidates(kernel: str, dtype: torch.dtype, block_d: int, *, roomy: bool = True) -> list[Configuration]:
    """The tile sizes that ship for a kernel, the likeliest first.

    Args:
        kernel: 'forward', 'queries' or 'keys'.
        block_d: head size, rounded up to a power of two: 16, 32, 64 or 128.
        roomy: whether larger tiles fit too: compute capability 9.0, no dropout, no mask of pairs.
    """
    found = _SINGLE if dtype == torch.float32 else _HALF
    larger = _ROOMY.get((kernel, block_d), []) if roomy and dtype != torch.float32 else []
    return [Configuration(*sizes) for sizes in larger + found[kernel, block_d]]


def configuration(kernel: str, dtype: torch.dtype, block_d: int, length: int, *, roomy: bool = True) -> Configuration:
    """The tile sizes that a kernel runs with at a length of the keys; the other arguments as in `candidates`."""
    if kernel in _forced:
        return _forced[kernel]
    offered = candidates(kernel, dtype, block_d, roomy=roomy)
    bound = next((bound for bound in LENGTHS if length <= bound), LENGTHS[-1])
    measured = _table().get((kernel, _name(dtype), block_d, bound))
    if measured in offered:
        return measured
    # Where the text is shorter than the tile, the rest of the tile is computed in vain.
    return next((sizes for sizes in offered if sizes.rows < 2 * length), offered[-1])


@contextlib.contextmanager
def forced(kernel: str, chosen: Configuration) -> Iterator[None]:
    """Inside, `kernel` runs with `chosen` at every length: for timing one candidate after the other."""
    _forced[kernel] = chosen
    try:
        yield
    finally:
        del _forced[kernel]


def write_table(path: Path, entries: Sequence[dict[str, Any]], device: str) -> None:
    """Writes what was found fastest on `device`; as `tile_table.json` beside this file it decides from then on.

    Args:
        entries: each with kernel, dtype ('float16', …), block_d, length (one of `LENGTHS`), rows, block, warps, stages.
    """
    path.write_text(json.dumps({"device": device, "entries": list(entries)}, indent=1) + "\n", encoding="utf-8")


@functools.cache
def _table() -> dict[tuple[str, str, int, int], Configuration]:
    if not TABLE.is_file():
        return {}
    return {
        (entry["kernel"], entry["dtype"], entry["block_d"], entry["length"]): Configuration(
            *(entry[name] for name in Configuration._fields)
        )
        for entry in json.loads(TABLE.read_text(encoding="utf-8"))["entries"]
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# By kernel and head size: rows, block, warps, stages. A tile of more rows reads keys, values and positions less often.
_Shipped = dict[tuple[str, int], list[tuple[int, int, int, int]]]
_ROOMY: _Shipped = {
    ("forward", 16): [(64, 64, 4, 2), (64, 32, 4, 2)],
    ("forward", 32): [(128, 64, 8, 2), (64, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2)],
    ("forward", 64): [(128, 64, 8, 2), (64, 64, 8, 2), (64, 64, 8, 3), (64, 32, 4, 2)],
    ("forward", 128): [(64, 32, 8, 2)],
    ("queries", 16): [(32, 32, 8, 2)],
    ("queries", 32): [(32, 32, 8, 2)],
    ("keys", 16): [(64, 64, 8, 1)],
    ("keys", 64): [(32, 32, 8, 2)],
}
# Of compute capability 8.0 too, with dropout and a mask of pairs.
_HALF: _Shipped = {
    ("forward", 16): [(32, 32, 4, 2)],
    ("forward", 32): [(32, 32, 4, 2)],
    ("forward", 64): [(32, 32, 4, 2)],
    ("forward", 128): [(32, 32, 4, 2)],
    ("queries", 16): [(16, 16, 2, 2)],
    ("queries", 32): [(16, 16, 4, 2)],
    ("queries", 64): [(32, 32, 8, 2)],
    ("queries", 128): [(16, 16, 4, 2)],
    ("keys", 16): [(32, 32, 4, 2)],
    ("keys", 32): [(32, 32, 4, 2)],
    ("keys", 64): [(32, 32, 4, 2)],
    ("keys", 128): [(32, 32, 8, 2)],
}
# Products in full precision run outside the tensor cores and need more registers.
_SINGLE: _Shipped = {
    ("forward", 16): [(16, 16, 4, 1)],
    ("forward", 32): [(16, 16, 4, 1)],
    ("forward", 64): [(16, 16, 4, 1)],
    ("queries", 16): [(16, 16, 4, 1)],
    ("queries", 32): [(16, 16, 4, 1)],
    ("queries", 64): [(16, 16, 8, 1)],
    ("keys", 16): [(16, 16, 4, 1)],
    ("keys", 32): [(16, 16, 8, 1)],
    ("keys", 64): [(16, 16, 8, 1)],
}
