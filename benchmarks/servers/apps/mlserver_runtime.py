"""A runtime for MLServer: strings in, labels and scores out. MLServer's adaptive batching joins requests before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.servers.apps.plain_model import PlainModel


class StudentRuntime(MLModel):
    """The plain export in the directory that `parameters.uri` of its settings names."""

    async def load(self) -> bool:
        self._model = PlainModel(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answers = self._model.classify(StringCodec.decode_input(payload.inputs[0]))
        scores = np.array([[answer["score"]] for answer in answers], dtype=np.float32)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                StringCodec.encode_output("label", [answer["label"] for answer in answers]),
                NumpyCodec.encode_output("score", scores),
            ],
        )
