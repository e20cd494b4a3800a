"""The student as people usually run it: transformers' tokenizer and a plain export in ONNX Runtime, default options.

Runs in the environments of the other servers, so it imports nothing of the project.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from transformers import AutoConfig, AutoTokenizer


class PlainModel:
    """A directory with `model.onnx`, `config.json` and a tokenizer."""

    def __init__(self, directory: Path):
        self._labels: dict[int, str] = AutoConfig.from_pretrained(directory).id2label
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._session = onnxruntime.InferenceSession(directory / "model.onnx", providers=["CPUExecutionProvider"])
        self._inputs = [given.name for given in self._session.get_inputs()]

    def classify(self, texts: list[str]) -> list[dict[str, Any]]:
        """`label` and `score`, the highest probability, of each text."""
        encoded = self._tokenizer(texts, padding=True, truncation=True, return_tensors="np")
        logits = self._session.run(["logits"], {name: encoded[name] for name in self._inputs})[0]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [
            {"label": self._labels[int(label)], "score": float(row[label])}
            for label, row in zip(best, scores, strict=True)
        ]
