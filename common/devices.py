"""Where a model runs: the device asked for is the device used, or the work ends saying what is missing."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from common.errors import InputError, WorkFailedError, first_line
from common.machine import usable_cores

_LOG = logging.getLogger("understudy.devices")

# Read when ONNX Runtime is loaded: its wheels report use to their maker unless told otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

DEVICES = ("auto", "cpu", "cuda")
CUDA_PROVIDER = "CUDAExecutionProvider"
_CPU_PROVIDER = "CPUExecutionProvider"
# TF32 would round the products of a float32 model to 10 bits.
_CUDA_OPTIONS = {"use_tf32": "0"}


def check_device(device: str) -> None:
    """
    Raises:
        InputError: it is not one of `DEVICES`.
    """
    if device not in DEVICES:
        raise InputError(f"device must be one of {', '.join(DEVICES)}, not '{device}'")


def open_session(path: Path, device: str = "cpu", threads: int = 0, *, precision: str = "fp32") -> tuple[Any, str]:
    """Opens an ONNX model.

    Args:
        device: one of `DEVICES`; 'auto' takes CUDA where it works, else the CPU.
        threads: of the CPU; 0 takes one a core.
        precision: of the model. Integer products have no CUDA kernels, so an int8 model runs on the CPU.

    Returns:
        The `onnxruntime.InferenceSession`, and the device that it runs on, 'cpu' or 'cuda'.

    Raises:
        InputError: the file is no model that can be opened, or an int8 model is to run on CUDA.
        WorkFailedError: CUDA is asked for and cannot be had.
    """
    check_device(device)
    if precision.startswith("int8") and device != "cpu":
        if device == "cuda":
            raise InputError(f"{path}: an {precision} model runs on the CPU; for CUDA export it with --precision fp16")
        device = "cpu"
    if device == "cpu":
        return _open(path, threads, [_CPU_PROVIDER]), "cpu"
    reason = _cuda_missing()
    if reason is None:
        session = _open(path, threads, [(CUDA_PROVIDER, _CUDA_OPTIONS), _CPU_PROVIDER])
        if session.get_providers()[0] == CUDA_PROVIDER:
            return session, "cuda"
        reason = "ONNX Runtime's CUDA provider does not start: a CUDA or cuDNN library, or the driver, is missing"
        if device == "auto":
            _LOG.warning("%s; the model runs on the CPU", reason)
    if device == "cuda":
        raise WorkFailedError(f"device cuda: {reason}")
    return _open(path, threads, [_CPU_PROVIDER]), "cpu"


def _cuda_missing() -> str | None:
    """Why this installation cannot try CUDA; None where it can. Loads the CUDA libraries that came as packages."""
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return (
            "the installed onnxruntime is the CPU's: pip uninstall onnxruntime, then pip install "
            "'onnxruntime-gpu[cuda,cudnn]'"
        )
    # They lie among Python's packages, where the system's loader does not look.
    onnxruntime.preload_dlls()
    return None


def _open(path: Path, threads: int, providers: list[Any]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3
    # Idle threads that spin take the cores from the event loop, the tokenizer and other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # the runtime's errors share no base class
        raise InputError(f"{path} cannot be opened: {first_line(error)}") from None
