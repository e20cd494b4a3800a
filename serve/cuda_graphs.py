"""CUDA graphs for packed batches of common shapes: one launch for a whole forward pass.

A graph repeats the very kernels that it recorded, on the same memory. So a batch is copied into buffers of the next
larger shape, a graph of which is recorded when that shape comes a second time. What the buffers have too many of,
tokens behind the last text and empty texts, costs little and is cut off the answer.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_LOG = logging.getLogger("understudy.serve")

Classifier = Callable[[Tensor, Tensor | None, Tensor, int], Tensor]
# Records what a function of no arguments does on the GPU and returns a function that repeats it.
Recorder = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]

# Recorded shapes that are kept; the one not used for longest goes first.
MAX_GRAPHS = 64
# Each step is at most half as much again as the one before, so that little is computed in vain.
_STEPS = [size for power in range(4, 20) for size in (2**power, 3 * 2 ** (power - 1))]


class Shape(NamedTuple):
    """The size of the buffers that a graph works on."""

    tokens: int
    texts: int
    max_length: int

    @classmethod
    def around(cls, tokens: int, texts: int, max_length: int) -> Shape:
        """The smallest shape that holds a batch."""
        return cls(_step(tokens), 1 << (texts - 1).bit_length(), _step(max_length))


class GraphedClassifier:
    """A packed classifier whose forward passes are replayed from CUDA graphs. For one thread.

    Args:
        classifier: as `PackedClassifier`, on `device`.
        record: makes the graph; by default CUDA's.
    """

    def __init__(self, classifier: Classifier, device: torch.device, record: Recorder | None = None):
        self._classifier = classifier
        self._device = device
        self._record = record or CudaRecorder()
        self._graphs: OrderedDict[Shape, _Graph] = OrderedDict()
        self._seen: set[Shape] = set()
        self._refused: set[Shape] = set()

    def __call__(self, input_ids: Tensor, token_type_ids: Tensor | None, cu_seqlens: Tensor, max_length: int) -> Tensor:
        """As `PackedClassifier.forward`."""
        texts = cu_seqlens.shape[0] - 1
        shape = Shape.around(input_ids.shape[0], texts, max_length)
        graph = self._graphs.get(shape)
        if graph is None:
            if shape not in self._seen:
                self._seen.add(shape)
                return self._classifier(input_ids, token_type_ids, cu_seqlens, max_length)
            if shape in self._refused:
                return self._classifier(input_ids, token_type_ids, cu_seqlens, max_length)
            graph = _Graph(self._classifier, shape, self._device, token_type_ids is not None)
            graph.fill(input_ids, token_type_ids, cu_seqlens)  # recording runs the pass, on texts that are some
            try:
                graph.record(self._record)
            except RuntimeError as error:  # what waits for the GPU cannot be recorded, nor what memory does not hold
                self._refused.add(shape)
                _LOG.warning("no CUDA graph for %s: %s; it runs without one", shape, error)
                return self._classifier(input_ids, token_type_ids, cu_seqlens, max_length)
            self._graphs[shape] = graph
            if len(self._graphs) > MAX_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(shape)
        graph.fill(input_ids, token_type_ids, cu_seqlens)
        # The buffer of the answer belongs to the graph and is written anew by its next run.
        return graph.replay()[:texts].clone()


class _Graph:
    """The buffers of a shape and the recorded pass over them."""

    def __init__(self, classifier: Classifier, shape: Shape, device: torch.device, segments: bool):
        self._classifier = classifier
        self._shape = shape
        self._ids = torch.zeros(shape.tokens, dtype=torch.int64, device=device)
        self._types = torch.zeros_like(self._ids) if segments else None
        self._ends = torch.zeros(shape.texts + 1, dtype=torch.int32, device=device)
        self.replay: Callable[[], Tensor] = self._run

    def fill(self, input_ids: Tensor, token_type_ids: Tensor | None, cu_seqlens: Tensor) -> None:
        """Copies a batch in; texts that it has fewer than the shape are empty ones at its end."""
        count = input_ids.shape[0]
        self._ids[:count] = input_ids
        self._ids[count:] = 0
        if self._types is not None:
            assert token_type_ids is not None
            self._types[:count] = token_type_ids
            self._types[count:] = 0
        self._ends[: cu_seqlens.shape[0]] = cu_seqlens
        self._ends[cu_seqlens.shape[0] :] = count

    def record(self, record: Recorder) -> None:
        self.replay = record(self._run)

    def _run(self) -> Tensor:
        return self._classifier(self._ids, self._types, self._ends, self._shape.max_length)


class CudaRecorder:
    """Records with `torch.cuda.graph`; all graphs share one pool of memory, since they run one after the other."""

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()
        # A library keeps a workspace for each stream that it has run on.
        self._stream = torch.cuda.Stream()

    def __call__(self, function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Runs the function twice, so that every kernel is compiled and loaded, then records it."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(2):
                function()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = function()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


def _step(size: int) -> int:
    return _STEPS[bisect_left(_STEPS, size)]
