"""A model's pass in a training step, on a GPU replayed from CUDA graphs.

A small model's step is hundreds of short kernels, and telling a GPU of each takes longer than running it. A graph
repeats all kernels of a pass, or of its backward pass, for one word of the CPU's. It repeats them on the same memory,
so that each shape of batch needs one of its own: texts are padded to one of a few lengths, which changes no answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.progress import say

# Each at most half as much again as the one before, so that little is computed in vain.
LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
# Rows times length, from which on the kernels are so long that a GPU never waits for the CPU.
MAX_POSITIONS = 8_192
# Their passes neither ask the GPU for an answer nor copy from the CPU's memory, neither of which can be recorded.
RECORDABLE = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")

# Records a module's passes, forward and backward, over tensors of the shapes given; returns what repeats them.
Recorder = Callable[[nn.Module, tuple[Tensor, ...]], Callable[..., tuple[Tensor, ...]]]


class PassOutput(NamedTuple):
    """What a training step reads of a pass.

    Attributes:
        logits: `[batch, labels]`.
        hidden_states: the embeddings' output and each layer's, `[batch, length, width]`; None where not asked for.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None


class TrainingPass:
    """Runs a model's passes, those of shapes that come again from graphs. The model must stay on its device.

    The tensors of an answer are the graph's own, and those of the model's gradients, too: the next pass of the same
    shape writes them anew.
    """

    def __init__(self, model: PreTrainedModel, states: bool, record: Recorder | None = None, *, graphs: bool = True):
        """
        Args:
            states: whether hidden states are asked for.
            record: makes graphs; by default CUDA's on a GPU, and none elsewhere.
            graphs: False has none in any case.
        """
        self._model = model
        self._states = states
        self._device = next(model.parameters()).device
        if record is None and graphs and self._device.type == "cuda" and model.config.model_type in RECORDABLE:
            record = GraphRecorder()
        self._record = record
        self._seen: set[torch.Size] = set()
        self._graphs: dict[torch.Size, Callable[..., tuple[Tensor, ...]]] = {}

    def length(self, rows: int, longest: int) -> int:
        """To how many positions a batch is best padded.

        Args:
            longest: how many its longest text has.
        """
        place = bisect_left(LENGTHS, longest)
        if self._record is None or place == len(LENGTHS) or rows * LENGTHS[place] > MAX_POSITIONS:
            return longest
        limit = getattr(self._model.config, "max_position_embeddings", None)
        return LENGTHS[place] if limit is None or LENGTHS[place] < limit else longest

    def __call__(self, batch: dict[str, Tensor]) -> PassOutput:
        """The model's answer to a batch, in bfloat16 where it runs on a GPU.

        Args:
            batch: the model's inputs, each `[batch, length]`.
        """
        shape = batch["input_ids"].shape
        if shape not in self._graphs and not self._recorded(shape, batch):
            return self._eager(batch)
        logits, *states = self._graphs[shape](*batch.values())
        return PassOutput(logits, tuple(states) or None)

    def _recorded(self, shape: torch.Size, batch: dict[str, Tensor]) -> bool:
        """Whether there is a graph of this shape now: it is recorded when a shape comes a second time."""
        if self._record is None or shape[1] not in LENGTHS or shape.numel() > MAX_POSITIONS:
            return False
        if shape not in self._seen:
            self._seen.add(shape)
            return False
        # The graph writes each batch into the tensors that it is recorded with.
        own = tuple(value.clone() for value in batch.values())
        try:
            self._graphs[shape] = self._record(_Recordable(self, tuple(batch)), own)
        except RuntimeError as error:
            say(f"No more CUDA graphs of training passes, which go on without ({str(error).splitlines()[0]})")
            self._record = None
            self._graphs.clear()
            _renew_generator(self._device)
            return False
        return True

    def _eager(self, batch: dict[str, Tensor], cached: bool = True) -> PassOutput:
        # fp16's range would need loss scaling; bf16 has float32's.
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._device.type == "cuda", cache_enabled=cached
        ):
            output: Any = self._model(**batch, output_hidden_states=self._states)
        return PassOutput(output.logits, output.hidden_states if self._states else None)


class _Recordable(nn.Module):
    """A pass as recorders take it: a module whose inputs and outputs are tensors."""

    def __init__(self, training_pass: TrainingPass, names: tuple[str, ...]):
        super().__init__()
        self.model = training_pass._model
        self._pass = training_pass
        self._names = names
        self.training = self.model.training

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        # Weights in bfloat16 that were kept from one pass would be old ones in the next.
        output = self._pass._eager(dict(zip(self._names, inputs, strict=True)), cached=False)
        return (output.logits, *(output.hidden_states or ()))


class GraphRecorder:
    """Records with CUDA. The graphs share a pool of memory, since a step ends before the next shape's begins.

    Nothing that an earlier pass gave may be alive while one is recorded: CUDA would be asked to wait for it.
    """

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()
        # Gradients are recorded on a stream of their own, of which PyTorch warns whoever did not mean it.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]]:
        """As `torch.cuda.make_graphed_callables`, for a module that has parameters which the pass does not use."""
        graphed: Any = torch.cuda.make_graphed_callables(module, inputs, allow_unused_input=True, pool=self._pool)
        return graphed


def _renew_generator(device: torch.device) -> None:
    """A recording that failed leaves the device's random numbers to graphs alone; nothing else could draw any."""
    if device.type == "cuda":
        generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
        generator.graphsafe_set_state(generator.clone_state())
