"""Does a text's answer depend on its neighbours in a batch? Asked of every text, alone and in many batches."""

from __future__ import annotations

import random
from collections.abc import Sequence

from common.progress import progress
from common.tokenization import Encoded
from export.exported_graph import ExportedGraph
from export.served import Served

# What a text's scores may move by between it alone and it in any batch.
MAX_BATCH_SHIFT = 1e-3
# Not every batch is tried, so that what is found must keep well within it.
TRIED_SHIFT = MAX_BATCH_SHIFT / 2
_SIZES = (32, 5, 16, 64, 2, 8, 3, 48, 12, 24, 4, 32, 6, 64, 16, 10, 32, 7, 40, 20)
# Sums of floating point numbers alone; a graph that stays below it in the first batchings has no steps to fall over.
_ROUNDING = 1e-6
_FIRST = 4


def neighbours_shift(graph: ExportedGraph, texts: Sequence[Encoded], served: Served, seed: int) -> tuple[float, int]:
    """Each text alone against itself among texts of its length, and among random ones, in batches of many sizes.

    Returns:
        The greatest shift of scores, and the most labels that differ in one batching.
    """
    draw = random.Random(seed)
    alone = graph.all_logits(texts, 1, doing="measuring each text alone")
    together = graph.all_logits(texts, doing="measuring texts of like length")
    shift, flips = served.shift(alone, together), served.flips(alone, together)
    with progress("measuring random batches", len(_SIZES), "passes") as advance:
        for turn, size in enumerate(_SIZES):
            if turn >= _FIRST and shift <= _ROUNDING and flips == 0:
                break
            order = draw.sample(range(len(texts)), len(texts))
            for start in range(0, len(order), size):
                rows = order[start : start + size]
                together[rows] = graph.logits([texts[row] for row in rows])
            shift = max(shift, served.shift(alone, together))
            flips = max(flips, served.flips(alone, together))
            advance(1)
    return shift, flips
