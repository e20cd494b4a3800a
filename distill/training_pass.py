"""A model's pass in a training step, on a GPU replayed from CUDA graphs.

A small model's step is hundreds of short kernels, and telling a GPU of each takes longer than running it. A graph
repeats all kernels of a pass, or of its backward pass, for one word of the CPU's. It repeats them on the same memory,
so that each shape of batch needs one of its own: texts are padded to one of a few lengths, which changes no answer.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from common.errors import WorkFailedError, first_line
from common.tokenization import max_positions

# Each at most half as much again as the one before, so that little is computed in vain.
LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
# Rows times length, from which on the kernels are so long that a GPU never waits for the CPU.
MAX_POSITIONS = 8_192
# Their passes neither ask the GPU for an answer nor copy from the CPU's memory, neither of which can be recorded.
RECORDABLE = ("bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta")
# Set to 0, it has no graphs recorded.
SWITCH = "UNDERSTUDY_CUDA_GRAPHS"

# How often a shape comes before it is recorded: an epoch's last batch comes too seldom to be worth it.
_BEFORE = 3
# Of a GPU's memory, for the gradients that graphs hold, a set each.
_SHARE = 1 / 8

Graph = Callable[..., tuple[Tensor, ...]]
# Records a module's passes, forward and backward, over tensors of the shapes given; None where it has no room.
Recorder = Callable[[nn.Module, tuple[Tensor, ...]], Graph | None]


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
        self._pass = _Pass(model, states)
        self._limit = max_positions(model.config.to_dict())
        graphs = graphs and os.environ.get(SWITCH) != "0" and model.config.model_type in RECORDABLE
        if record is None and graphs and self._pass.device.type == "cuda":
            record = GraphRecorder()
        self._record = record
        self._seen: Counter[torch.Size] = Counter()
        self._graphs: dict[torch.Size, Graph] = {}

    def length(self, rows: int, longest: int) -> int:
        """To how many positions a batch is best padded.

        Args:
            longest: how many its longest text has.
        """
        place = bisect_left(LENGTHS, longest)
        if self._record is None or place == len(LENGTHS) or rows * LENGTHS[place] > MAX_POSITIONS:
            return longest
        return LENGTHS[place] if self._limit is None or LENGTHS[place] <= self._limit else longest

    def __call__(self, batch: dict[str, Tensor]) -> PassOutput:
        """The model's answer to a batch, in bfloat16 where it runs on a GPU.

        Args:
            batch: the model's inputs, each `[batch, length]`.

        Raises:
            WorkFailedError: a graph could not be recorded.
        """
        shape = batch["input_ids"].shape
        if shape not in self._graphs and not self._recorded(shape, batch):
            return self._pass(batch)
        logits, *states = self._graphs[shape](*batch.values())
        return PassOutput(logits, tuple(states) or None)

    def _recorded(self, shape: torch.Size, batch: dict[str, Tensor]) -> bool:
        """Whether there is a graph of this shape now."""
        if self._record is None or shape[1] not in LENGTHS or shape.numel() > MAX_POSITIONS:
            return False
        self._seen[shape] += 1
        if self._seen[shape] != _BEFORE + 1:
            return False
        # The graph writes each batch into the tensors that it is recorded with.
        own = {name: value.clone() for name, value in batch.items()}
        # Without any padding, kernels that know of it would be loaded while recording, which not all can be.
        own["attention_mask"][:, -1] = 0
        try:
            graph = self._record(_Recordable(self._pass, tuple(own)), tuple(own.values()))
        except (RuntimeError, AssertionError) as error:
            # PyTorch's allocator and random numbers are of no more use now.
            raise WorkFailedError(
                f"a training pass could not be recorded as a CUDA graph ({first_line(error.__context__ or error)}): "
                f"with {SWITCH}=0 in the environment the same command goes on without graphs"
            ) from error
        if graph is not None:
            self._graphs[shape] = graph
        return graph is not None


class _Pass:
    """One pass of a model, kernel by kernel."""

    def __init__(self, model: PreTrainedModel, states: bool):
        self.model = model
        self.device = next(model.parameters()).device
        self._states = states

    def __call__(self, batch: dict[str, Tensor], cached: bool = True) -> PassOutput:
        """
        Args:
            cached: whether weights in bfloat16 are kept until the pass ends.
        """
        kind = self.device.type
        # fp16's range would need loss scaling; bf16 has float32's.
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda", cache_enabled=cached):
            output: Any = self.model(**batch, output_hidden_states=self._states)
        return PassOutput(output.logits, output.hidden_states if self._states else None)


class _Recordable(nn.Module):
    """A pass as recorders take it: a module whose inputs and outputs are tensors."""

    def __init__(self, run: _Pass, names: tuple[str, ...]):
        super().__init__()
        self.model = run.model
        self._run = run
        self._names = names
        self.training = self.model.training

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        # Weights that were kept from one pass would be old ones in the next.
        output = self._run(dict(zip(self._names, inputs, strict=True)), cached=False)
        return (output.logits, *(output.hidden_states or ()))


class GraphRecorder:
    """Records with CUDA. The graphs share a pool of memory, since a step ends before the next shape's begins.

    Nothing that an earlier pass gave may be alive while one is recorded: CUDA would be asked to wait for it.
    """

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._gradients = 0
        # Gradients are recorded on a stream of their own, of which PyTorch warns whoever did not mean it.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Graph | None:
        """As `torch.cuda.make_graphed_callables`, for a module that has parameters which the pass does not use."""
        own = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
        _, memory = torch.cuda.mem_get_info(inputs[0].device)
        if self._gradients + own > _SHARE * memory:
            return None
        torch.cuda.make_graphed_callables(module, inputs, allow_unused_input=True, pool=self._pool)
        self._gradients += own
        # Left where it is, it would keep the module and itself alive.
        graph: Graph = vars(module).pop("forward")
        return graph
