"""The engine's usual model: an ONNX Runtime session."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.devices import open_session
from common.errors import InputError
from common.machine import integer_products_saturate
from common.tokenization import Encoded, TextEncoder
from export.bundle import Bundle


class OnnxModel:
    """An ONNX Runtime session over padded batches.

    Attributes:
        device: 'cpu' or 'cuda'.
    """

    engine = "onnx"

    def __init__(self, bundle: Bundle, encoder: TextEncoder, threads: int, device: str):
        """
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
        self._inputs = manifest.inputs
        self._session, self.device = open_session(bundle.model_path, device, threads, precision=manifest.precision)

    def run(self, batch: Sequence[Encoded]) -> NDArray[np.float32]:
        """Logits `[batch, labels]`."""
        padded = self._encoder.pad(batch)
        given = {name: padded[name] for name in self._inputs}
        logits: NDArray[np.float32] = np.asarray(self._session.run(["logits"], given)[0], np.float32)
        return logits
