"""Which implementation runs: the fused kernels on CUDA where they take the problem, plain PyTorch everywhere else."""

import functools
import importlib.util
import logging

import torch
from torch import Tensor

from kernels import eager
from kernels.arguments import Arguments

logger = logging.getLogger(__name__)

MAX_D_HEAD = 128
MAX_D_HEAD_SINGLE = 64  # wider float32 heads would spill registers in the backward kernels
MAX_STREAMS = 65535  # the second axis of a CUDA grid


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    """The output and each row's logsumexp; see `eager.forward`."""
    if not _fused(a):
        return eager.forward(a)
    from kernels import triton_forward  # needs triton, which is there only where GPUs are

    with torch.cuda.device(a.q.device):
        return triton_forward.forward(a)


def forward_packed(a: Arguments, cu_seqlens: Tensor, max_length: int) -> Tensor:
    """The output for texts one behind the other; see `eager.forward_packed`."""
    if not _fused(a, texts=cu_seqlens.shape[0] - 1):
        return eager.forward_packed(a, cu_seqlens, max_length)
    from kernels import triton_forward

    with torch.cuda.device(a.q.device):
        return triton_forward.forward_packed(a, cu_seqlens, max_length)


def backward(a: Arguments, grad: Tensor, out: Tensor, logsumexp: Tensor) -> list[Tensor]:
    """The gradients of the arguments that are present; see `eager.backward`."""
    if not _fused(a):
        return eager.backward(a, grad, out)
    from kernels import triton_backward

    with torch.cuda.device(a.q.device):
        return triton_backward.backward(a, grad, out, logsumexp)


def why_not(a: Arguments, texts: int | None = None) -> str | None:
    """The reason why the fused kernels do not take a problem, or None where they do.

    Args:
        texts: how many lie packed in the one item of `a`; None where nothing is packed.
    """
    d_head, streams = a.q.shape[3], (a.q.shape[0] if texts is None else texts) * a.q.shape[1]
    if a.q.device.type != "cuda":
        return f"{a.q.device.type} tensors"
    if a.q.dtype == torch.float64:
        return "float64"
    if d_head > MAX_D_HEAD or (d_head > MAX_D_HEAD_SINGLE and a.q.dtype == torch.float32):
        return f"d_head {d_head} in {a.q.dtype}"
    if streams > MAX_STREAMS:
        return f"batch times heads is {streams}, above {MAX_STREAMS}"
    if torch.cuda.get_device_capability(a.q.device) < (8, 0):
        return "a GPU older than compute capability 8.0"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None


def _fused(a: Arguments, texts: int | None = None) -> bool:
    reason = why_not(a, texts)
    if reason is not None and a.q.device.type == "cuda":
        _log_once(reason)
    return reason is None


@functools.cache
def _log_once(reason: str) -> None:
    logger.warning("relative_attention: no fused kernel for %s; plain PyTorch runs instead", reason)
