"""Which tile sizes are fastest on this GPU: `python -m benchmarks.gpu.tiles`.

Times every configuration that `kernels.configurations` ships, kernel by kernel and length by length, and writes the
fastest to a table in the form that `kernels/tile_table.json` has. It is a proposal: nothing reads it until it is put
there. The kernels of the backward pass are timed within that pass, the other one's tiles unchanged. A configuration
whose answers differ from those of the one in use is left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.attention_baselines import Problem, make_problem
from benchmarks.gpu.timing import time_call
from benchmarks.relative_attention import D_HEAD, HEADS, TOLERANCES, disagreement, first_line
from common.machine import usable_cores
from kernels import configurations, dispatch
from kernels.arguments import Arguments
from kernels.configurations import KERNELS, LENGTHS, Configuration, candidates, configuration, forced, write_table

# Under its own name, so that taking the proposal up is copying it.
TABLE = configurations.TABLE.name
BATCH = 8
# A row without an upper bound is decided at this length.
LONGEST = 4096
# Processes that compile at once: each holds a CUDA context of its own.
_COMPILERS = 8
# The share of the time that compiling may take.
_COMPILING = 0.4

Call = Callable[[], list[Tensor]]


def tune(
    dtypes: Sequence[torch.dtype], device: torch.device, deadline: float, timer: Callable[[Call], float]
) -> Iterator[dict[str, Any]]:
    """Decides row after row of the table, the middle lengths first, until the deadline.

    Args:
        deadline: of `time.monotonic`; the row under way is finished.
        timer: milliseconds of a call.

    Yields:
        Objects with `kernel`, `dtype`, `block_d`, `length` (the row's upper bound), `measured_at` (the length timed),
        `tried` (each configuration with `median_ms` or the `reason` why it has none), the chosen `rows`, `block`,
        `warps` and `stages`, null where none works, and `gain` (the time of the configuration in use over the chosen
        one's).
    """
    for dtype in dtypes:
        for bound in sorted(LENGTHS, key=lambda bound: abs(bound - 512)):
            length = min(bound, LONGEST)
            problem = make_problem(BATCH, length, dtype, device, heads=HEADS, d_head=D_HEAD)
            for kernel in KERNELS:
                if time.monotonic() > deadline:
                    return
                row = {"kernel": kernel, "dtype": str(dtype).removeprefix("torch."), "block_d": D_HEAD, "length": bound}
                yield row | {"measured_at": length} | _decide(kernel, dtype, length, pass_of(kernel, problem), timer)


def pass_of(kernel: str, problem: Problem) -> Call:
    """The pass that a kernel is part of, as a call that returns what it computes."""
    a = arguments_of(problem)
    if kernel == "forward":
        return lambda: [dispatch.forward(a)[0]]
    out, logsumexp = dispatch.forward(a)
    return lambda: dispatch.backward(a, problem.upstream, out, logsumexp)


def arguments_of(p: Problem) -> Arguments:
    """A problem as the op hands it to the kernels."""
    return Arguments(
        q=p.q, k=p.k, v=p.v, r=p.r[None], content_bias=p.content_bias, position_bias=p.position_bias,
        segment_bias=p.segment_bias, segment_embedding=p.segment_embedding, query_segments=p.segments,
        key_segments=p.segments, mask=None, seed=None, see_self=False, scale=p.scale, dropout=0.0,
    )  # fmt: skip


def _decide(kernel: str, dtype: torch.dtype, length: int, call: Call, timer: Callable[[Call], float]) -> dict[str, Any]:
    current = configuration(kernel, dtype, D_HEAD, length, roomy=_roomy())
    want = call()
    tried = []
    times: dict[Configuration, float] = {}
    for candidate in offered(kernel, dtype):
        try:
            with forced(kernel, candidate):
                # The positions are the last of the large gradients; those behind them sum up what cancels out.
                difference = disagreement(call()[:4], want[:4])
                if difference > TOLERANCES[dtype]:
                    raise ValueError(f"its answers differ by {difference:.1e}")
                times[candidate] = timer(call)
            tried.append({**candidate._asdict(), "median_ms": times[candidate]})
        except Exception as error:  # more registers or shared memory than there are, or a wrong answer
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # raises where the GPU itself is what failed
            tried.append({**candidate._asdict(), "reason": first_line(error)})
    if not times:
        return {"tried": tried, **dict.fromkeys(Configuration._fields), "gain": None}
    chosen = min(times, key=times.__getitem__)
    gain = round(times[current] / times[chosen], 3) if current in times else None
    return {"tried": tried, **chosen._asdict(), "gain": gain}


def offered(kernel: str, dtype: torch.dtype) -> list[Configuration]:
    """What ships for this GPU, where there is neither dropout nor a mask of pairs."""
    return candidates(kernel, dtype, D_HEAD, roomy=_roomy())


def _roomy() -> bool:
    return not torch.cuda.is_available() or torch.cuda.get_device_capability() >= (9, 0)


def compile_all(dtypes: Sequence[torch.dtype], seconds: float) -> None:
    """Fills Triton's cache on disk by many processes at once, since compiling takes longer than timing."""
    jobs = [(k, d, c) for d in dtypes for k in KERNELS for c in offered(k, d)]
    workers = min(_COMPILERS, usable_cores(), len(jobs))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        wait([pool.submit(_compile, *job) for job in jobs], timeout=seconds)
        pool.shutdown(cancel_futures=True)


def _compile(kernel: str, dtype: torch.dtype, candidate: Configuration) -> None:
    """Runs a kernel once. What fails here fails again where it is timed, and is told there."""
    problem = make_problem(BATCH, 128, dtype, "cuda", heads=HEADS, d_head=D_HEAD)
    with forced(kernel, candidate):
        pass_of(kernel, problem)()
    torch.cuda.synchronize()


def main() -> None:
    """Parses the arguments, decides the table, writes it, and prints all rows as JSON."""
    parser = argparse.ArgumentParser(description="the fastest tile sizes on this GPU")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="directory of the table")
    parser.add_argument("--seconds", type=float, default=120, help="when to stop; the row under way is finished")
    parser.add_argument("--dtype", nargs="+", choices=["float16", "bfloat16", "float32"])
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("tile sizes can only be timed on a CUDA GPU", file=sys.stderr)
        sys.exit(2)
    deadline = time.monotonic() + arguments.seconds
    device = torch.device("cuda")
    dtypes = [getattr(torch, name) for name in arguments.dtype or ("float16", "bfloat16")]
    compile_all(dtypes, _COMPILING * arguments.seconds)
    rows = []
    for row in tune(dtypes, device, deadline, lambda call: time_call(call, device, replay=True).median_ms):
        rows.append(row)
        print(f"{row['kernel']} {row['dtype']} T={row['length']}: gain {row['gain']}", file=sys.stderr, flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_table(arguments.output / TABLE, [r for r in map(entry, rows) if r], torch.cuda.get_device_name(device))
    print(json.dumps({"table": TABLE, "rows": rows}))


def entry(row: dict[str, Any]) -> dict[str, Any] | None:
    """A row as `write_table` takes it; None where no configuration works."""
    names = ("kernel", "dtype", "block_d", "length", *Configuration._fields)
    return {name: row[name] for name in names} if row["rows"] is not None else None


if __name__ == "__main__":
    main()
