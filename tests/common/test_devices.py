"""The device asked for is the device used."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from common.devices import open_session
from common.errors import InputError, WorkFailedError
from serve.engine import Engine


def test_cuda_is_never_replaced_by_the_cpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(WorkFailedError, match="device cuda: the installed onnxruntime is the CPU's: pip uninstall"):
        open_session(bundle / "model.onnx", "cuda")


def test_a_provider_that_does_not_start_is_told(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # What an installation with the CUDA package and no driver says.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    loaded = []
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: loaded.append(True))
    whole = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: whole(path, options, providers=providers[-1:])
    )
    with pytest.raises(WorkFailedError, match="device cuda: ONNX Runtime's CUDA provider does not start"):
        open_session(bundle / "model.onnx", "cuda")
    session, device = open_session(bundle / "model.onnx", "auto")
    assert device == "cpu"
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert "does not start" in caplog.text
    assert loaded == [True, True]


def test_auto_takes_cuda_where_it_starts(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def __init__(self, _path: Path, _options: object, providers: list[object]):
            self.providers = [entry[0] if isinstance(entry, tuple) else entry for entry in providers]

        def get_providers(self) -> list[object]:
            return self.providers

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    assert open_session(bundle / "model.onnx", "auto")[1] == "cuda"
    assert open_session(bundle / "model.onnx", "cpu")[1] == "cpu"
    # Integer products have no CUDA kernels.
    assert open_session(bundle / "model.onnx", "auto", precision="int8")[1] == "cpu"
    with pytest.raises(InputError, match="an int8-static model runs on the CPU"):
        open_session(bundle / "model.onnx", "cuda", precision="int8-static")


def test_a_file_that_is_no_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07garbage" * 9)
    with pytest.raises(InputError, match=r"model\.onnx cannot be opened: ") as caught:
        open_session(tmp_path / "model.onnx", "cpu")
    assert "\n" not in str(caught.value)


def test_an_unknown_device_is_refused(bundle: Path) -> None:
    with pytest.raises(InputError, match="device must be one of auto, cpu, cuda"):
        Engine.load(bundle, device="gpu")


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_the_engines_refuse_cuda_where_there_is_none(
    engine: str, weights_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(WorkFailedError, match="device cuda: "):
        Engine.load(weights_bundle, engine=engine, device="cuda")
