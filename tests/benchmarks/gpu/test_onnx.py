"""Exported graphs under ONNX Runtime, on the CPU here; and what is said where there is no CUDA provider."""

from __future__ import annotations

import json
import sys

import onnxruntime
import pytest

from benchmarks.gpu import onnx
from common.devices import CUDA_PROVIDER


def test_exported_graphs_answer_as_the_models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = ["onnx", "--device", "cpu", "--layers", "1", "--width", "48", "--texts", "1", "3"]
    monkeypatch.setattr(sys, "argv", toy)
    onnx.main()
    found = json.loads(capsys.readouterr().out)
    assert found["reason"] is None
    assert [(row["family"], row["texts"]) for row in found["rows"]] == [
        (family, texts) for family in ("bert", "xlnet") for texts in (1, 3)
    ]
    assert all(row["right"] and row["device"] == "cpu" and row["texts_per_s"] > 0 for row in found["rows"])


@pytest.mark.skipif(CUDA_PROVIDER in onnxruntime.get_available_providers(), reason="ONNX Runtime has CUDA here")
def test_without_the_provider_there_is_a_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["onnx", "--layers", "1", "--width", "48", "--texts", "1"])
    onnx.main()
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == []
    assert "onnxruntime" in found["reason"]
