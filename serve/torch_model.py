"""The engine's model in PyTorch, from the weights inside a bundle: on CUDA where there is one, packed, in CUDA graphs.

`--engine torch` is what runs the project's own attention kernels. It needs the `[train]` packages and a bundle that was
exported with its weights.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

# As the command has it, for callers of the library; without effect where PyTorch is loaded already.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from common.errors import InputError, WorkFailedError, first_line
from common.machine import usable_cores
from common.tokenization import Encoded, TextEncoder, pack
from export.bundle import WEIGHTS_FILE, Bundle
from kernels import dispatch
from kernels.arguments import Arguments
from kernels.inference import load_inference
from kernels.packed_classifier import PackedClassifier
from serve.cuda_graphs import Classifier, GraphedClassifier, Shape

_LOG = logging.getLogger("understudy.serve")

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class TorchModel:
    """A bundle's classifier in PyTorch.

    Attributes:
        device: 'cpu', or 'cuda' with the card's name.
    """

    engine = "torch"
    lanes = 1

    def __init__(self, bundle: Bundle, encoder: TextEncoder, threads: int, device: str):
        """Loads the weights.

        Args:
            device: 'cpu', 'cuda', or 'auto', which takes CUDA where there is a GPU.

        Raises:
            InputError: the bundle holds no weights, or they are not those of its config.
            WorkFailedError: CUDA is asked for and PyTorch sees none.
        """
        cuda = device != "cpu" and torch.cuda.is_available()
        if device == "cuda" and not cuda:
            built = "" if torch.version.cuda else " (it was built without CUDA)"
            raise WorkFailedError(f"device cuda: PyTorch {torch.__version__} sees no GPU{built}")
        torch.set_num_threads(threads or usable_cores())
        self.device = f"cuda ({torch.cuda.get_device_name()})" if cuda else "cpu"
        self._device = torch.device("cuda" if cuda else "cpu")
        self._encoder = encoder
        self._segments = "token_type_ids" in bundle.manifest.inputs
        longest = Shape.around(1, 1, encoder.max_length).max_length
        model = _load(bundle, longest, self._device)
        self.padding_cost = 0.0 if isinstance(model, PackedClassifier) else 1.0
        self._packed: Classifier | None = None
        self._padded: PreTrainedModel | None = None
        if isinstance(model, PackedClassifier):
            self._packed = GraphedClassifier(model, self._device) if cuda and _fused(model) else model
        else:
            _LOG.warning("%s: this %s model runs padded, in plain PyTorch", bundle.path, model.config.model_type)
            self._padded = model

    def run(self, batch: Sequence[Encoded]) -> NDArray[np.float32]:
        """Logits `[batch, labels]`."""
        with torch.inference_mode():
            logits = self._run_packed(batch) if self._packed is not None else self._run_padded(batch)
            result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result

    def _run_packed(self, batch: Sequence[Encoded]) -> Tensor:
        assert self._packed is not None
        packed = pack(batch)
        types = self._tensor(packed.token_type_ids) if self._segments else None
        return self._packed(self._tensor(packed.input_ids), types, self._tensor(packed.cu_seqlens), packed.max_length)

    def _run_padded(self, batch: Sequence[Encoded]) -> Tensor:
        assert self._padded is not None
        padded = self._encoder.pad(batch)
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._segments else [])]
        logits: Tensor = self._padded(**{name: self._tensor(padded[name]) for name in names}).logits
        return logits

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def _load(bundle: Bundle, longest: int, device: torch.device) -> PackedClassifier | PreTrainedModel:
    if WEIGHTS_FILE not in bundle.manifest.files:
        raise InputError(f"{bundle.path} holds no weights for the torch engine: export it again with --with-weights")
    try:
        return load_inference(bundle.path, longest, device)
    except Exception as error:  # transformers raises many kinds for files that do not fit
        raise InputError(f"{bundle.path / WEIGHTS_FILE} cannot be loaded: {first_line(error)}") from None


def _fused(model: PackedClassifier) -> bool:
    """Whether its attention runs on the fused kernel; what else would run waits for the GPU and cannot be recorded."""
    config = model.model.config
    heads, weight = config.num_attention_heads, next(model.parameters())
    d_head = getattr(config, "d_head", None) or config.hidden_size // heads
    given: dict[str, Any] = dict.fromkeys(Arguments._fields) | {"q": weight.new_empty(1, heads, 1, d_head)}
    return dispatch.why_not(Arguments(**given)) is None
