"""The engine's usual model: an ONNX Runtime session."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from common.errors import InputError
from common.machine import usable_cores
from common.tokenization import Encoded, TextEncoder
from export.bundle import Bundle


class OnnxModel:
    """An ONNX Runtime session on the CPU, over padded batches."""

    engine = "onnx"
    device = "cpu"

    def __init__(self, bundle: Bundle, encoder: TextEncoder, threads: int):
        self._encoder = encoder
        self._inputs = bundle.manifest.inputs
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.log_severity_level = 3
        # Idle threads that spin take the cores from the event loop, the tokenizer and other sessions.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(bundle.model_path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors share no base class
            raise InputError(f"{bundle.model_path} cannot be opened: {str(error).splitlines()[0]}") from None

    def run(self, batch: Sequence[Encoded]) -> NDArray[np.float32]:
        """Logits `[batch, labels]`."""
        padded = self._encoder.pad(batch)
        logits: NDArray[np.float32] = self._session.run(["logits"], {name: padded[name] for name in self._inputs})[0]
        return logits
