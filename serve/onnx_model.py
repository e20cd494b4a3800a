"""The engine's usual model: an ONNX Runtime session."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.devices import open_session
from common.errors import InputError
from common.machine import integer_products_saturate, usable_cores
from common.tokenization import Encoded, TextEncoder
from export.bundle import Bundle

# Of a token's work, where padding is left out of all the rest.
_ATTENTION_SHARE = 0.1


class OnnxModel:
    """An ONNX Runtime session over padded batches.

    Several lanes, that is batches at once, share a session whose every run keeps to one thread: nobody waits for a
    partner at each operator. A text that runs alone has a session of its own with all threads, unless the model is
    to be steady.

    Attributes:
        device: 'cpu' or 'cuda'.
        lanes: how many threads may call `run` at once.
        padding_cost: what a token of padding costs, in tokens.
    """

    engine = "onnx"

    def __init__(
        self,
        bundle: Bundle,
        encoder: TextEncoder,
        threads: int,
        device: str,
        lanes: int = 1,
        *,
        steady: bool = False,
    ):
        """
        Args:
            steady: as in `serve.engine.Engine.load`.

        Raises:
            InputError: the model cannot be opened, or would give wrong answers on this processor.
            WorkFailedError: CUDA is asked for and cannot be had.
        """
        manifest = bundle.manifest
        if manifest.weight_bits == 8 and integer_products_saturate():
            raise InputError(
                f"{bundle.path} has 8-bit weights, whose products overflow on this processor (it has no VNNI): "
                f"export it with --weight-bits 7"
            )
        self._encoder = encoder
        self.padding_cost = _ATTENTION_SHARE if manifest.contents.get("packed") else 1.0
        self._inputs = manifest.inputs
        path, precision = bundle.model_path, manifest.precision
        each = max(1, (threads or usable_cores()) // lanes)
        self._shared, self.device = open_session(path, device, each, precision=precision)
        self.lanes = lanes if self.device == "cpu" else 1
        self._alone = self._shared
        if self.lanes > 1 and not steady:
            self._alone, _ = open_session(path, device, threads, precision=precision)
        self._lock = threading.Lock()
        self._running = 0

    def run(self, batch: Sequence[Encoded]) -> NDArray[np.float32]:
        """Logits `[batch, labels]`."""
        padded = self._encoder.pad(batch)
        given = {name: padded[name] for name in self._inputs}
        with self._lock:
            session = self._alone if len(batch) == 1 and self._running == 0 else self._shared
            self._running += 1
        try:
            logits: NDArray[np.float32] = np.asarray(session.run(["logits"], given)[0], np.float32)
        finally:
            with self._lock:
                self._running -= 1
        return logits
