"""Every kernel once at a small shape, for `compute-sanitizer … python -m benchmarks.gpu.sanitizer` to watch.

The length leaves the last tile partly filled, and the mask and the segments make every load happen.
"""

from __future__ import annotations

import argparse
import sys

import torch

from benchmarks.attention_baselines import make_problem
from benchmarks.gpu.tiles import arguments_of
from kernels import dispatch

BATCH, HEADS, LENGTH, D_HEAD = 2, 2, 70, 64


def main() -> None:
    """Runs the forward and the backward pass and says what ran."""
    parser = argparse.ArgumentParser(description="the kernels once, for compute-sanitizer")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    dtype = getattr(torch, parser.parse_args().dtype)
    if not torch.cuda.is_available():
        print("compute-sanitizer watches kernels on a CUDA GPU", file=sys.stderr)
        sys.exit(2)
    problem = make_problem(BATCH, LENGTH, dtype, "cuda", heads=HEADS, d_head=D_HEAD)
    generator = torch.Generator("cuda").manual_seed(0)
    mask = torch.rand(BATCH, LENGTH, LENGTH, generator=generator, device="cuda") < 0.3
    a = arguments_of(problem)._replace(mask=mask, see_self=True)
    out, logsumexp = dispatch.forward(a)
    gradients = dispatch.backward(a, problem.upstream, out, logsumexp)
    ends = torch.tensor([0, LENGTH - 33, LENGTH - 33, LENGTH], dtype=torch.int32, device="cuda")
    row = a._replace(**{name: getattr(a, name)[:1] for name in ("q", "k", "v", "query_segments", "key_segments")})
    packed = dispatch.forward_packed(row._replace(mask=None, see_self=False), ends, LENGTH)
    torch.cuda.synchronize()
    # Read on the host: a NaN would be what an unwritten element may look like.
    finite = all(bool(tensor.isfinite().all()) for tensor in (out, *gradients, packed))
    print(f"ran forward, backward and packed in {dtype}: {'finite' if finite else 'not finite'}")
    if not finite:
        sys.exit(1)


if __name__ == "__main__":
    main()
