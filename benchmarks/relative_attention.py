"""`relative_attention` against every other way to compute it: `python -m benchmarks.relative_attention`.

Times the forward pass, and the forward and backward pass together, of one XLNet layer's attention (12 heads of 64, with
content, position and segment terms and their biases) in half precision on CUDA, over lengths and batches, the most
telling first, until `--seconds` are over. Before it is timed, a competitor has to give `relative_attention`'s answers.
Without a GPU it does the same at a few small shapes on the CPU; such figures say 'cpu' wherever they stand.

`relative_attention.json` is written anew after every shape:

    machine      see `gpu.machine.describe`
    heads, d_head
    records      for each dtype, batch, length and implementation: device; for each pass a status and
                     'timed'          median_ms, low_ms, high_ms and timer (see `gpu.timing.Timing`), peak_bytes
                     'disagrees'      not timed; difference from relative_attention, above the tolerance
                     'out of memory'  not timed
                     'failed'         not timed; reason
                 and backward_ms, the difference of the two medians
    ratios, memory, targets          see `gpu.targets`
    not_reached  what was left when the run ended, by dtype, batch and length
    stopped      what ended the run early; null if nothing did
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.attention_baselines import FLEX, FLOATS, IMPLEMENTATIONS, Implementation, Problem, make_problem
from benchmarks.gpu.machine import describe
from benchmarks.gpu.plot import draw
from benchmarks.gpu.report import summary_lines
from benchmarks.gpu.targets import BOTH, FORWARD, summarize
from benchmarks.gpu.timing import peak_bytes, time_call
from common.files import staged_file, write_json

RESULTS, PLOT = "relative_attention.json", "relative_attention.png"
HEADS, D_HEAD = 12, 64
# The most telling first.
LENGTHS, BATCHES = (512, 1024, 128, 4096, 2048, 256), (8, 32, 64, 1)
CPU_LENGTHS, CPU_BATCHES = (16, 32, 64), (2,)
# The greatest relative difference, by norm, between two right answers; a term left out makes it 0.3 and more.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
# Up to so many tokens a batch, the fastest take less time than Python needs to launch them.
REPLAYED_TOKENS = 32768
# How `stopped` begins when no more can be measured in this process.
LOST = "the GPU was lost"


class Step(NamedTuple):
    """Implementations to measure in one case."""

    dtype: torch.dtype
    batch: int
    length: int
    names: tuple[str, ...]


def plan(dtypes: Sequence[torch.dtype], batches: Sequence[int], lengths: Sequence[int]) -> Iterator[Step]:
    """All cases in order of what they tell. FlexAttention compiles anew for each, for longer than all else takes."""
    quick = tuple(name for name in IMPLEMENTATIONS if name != FLEX)
    first, rest = batches[:1], batches[1:]
    for some, precisions, names in (
        (first, dtypes, quick),
        (first, dtypes[:1], (FLEX,)),
        (rest, dtypes, quick),
        (first, dtypes[1:], (FLEX,)),
        (rest, dtypes, (FLEX,)),
    ):
        yield from (Step(d, batch, length, names) for batch in some for d in precisions for length in lengths)


def run(steps: Sequence[Step], device: torch.device, output: Path, seconds: float) -> dict[str, Any]:
    """Measures the steps in order until the time is up, writing what there is after each.

    Returns:
        What the results file holds.
    """
    deadline = time.monotonic() + seconds
    report: dict[str, Any] = {"machine": describe(), "heads": HEADS, "d_head": D_HEAD, "records": []}
    left = [(step, name) for step in steps for name in step.names]
    stopped = None
    while left and stopped is None:
        step, name = left[0]
        if time.monotonic() > deadline:
            stopped = f"the time of {seconds:.0f} s was up"
        else:
            try:
                record = measure(IMPLEMENTATIONS[name], step, device)
            except torch.AcceleratorError as error:
                stopped = f"{LOST} at {name}, {step.dtype} B={step.batch} T={step.length}: {first_line(error)}"
            else:
                print(_line(record), file=sys.stderr, flush=True)
                report["records"].append(record)
                left.pop(0)
        if stopped or not left or left[0][0] != step:
            report |= {**summarize(report["records"]), "not_reached": _grouped(left), "stopped": stopped}
            save(report, output / RESULTS)
    return report


def measure(implementation: Implementation, step: Step, device: torch.device) -> dict[str, Any]:
    """One implementation in one case: a record.

    Raises:
        torch.AcceleratorError: the GPU is lost to this process.
    """
    record = {**_case(step), "implementation": implementation.name, "device": _name(device)}
    for work, form in ((FORWARD, _forward), (BOTH, _both)):
        record[work] = _measure_pass(implementation, form, step, device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if implementation.name == FLEX:
        torch.compiler.reset()  # or the compiler gives up specializing after a few shapes
    medians = [record[work].get("median_ms") for work in (FORWARD, BOTH)]
    record["backward_ms"] = None if None in medians else medians[1] - medians[0]
    return record


def disagreement(got: Sequence[Tensor | None], want: Sequence[Tensor | None]) -> float:
    """The greatest ‖got − want‖ / ‖want‖ of paired tensors; infinite for NaN, and for one without its counterpart."""
    found = [0.0]
    for one, other in zip(got, want, strict=True):
        if one is None or other is None:
            found.append(0.0 if one is other else math.inf)
        else:
            difference = float((one.float() - other.float()).norm() / other.float().norm())
            found.append(math.inf if math.isnan(difference) else difference)
    return max(found)


def save(report: dict[str, Any], path: Path) -> None:
    """Writes JSON that is whole at any time."""
    with staged_file(path, overwrite=True) as staging:
        write_json(staging, report)


def _forward(call: Callable[[Problem], Tensor], problem: Problem) -> list[Tensor | None]:
    with torch.no_grad():
        return [call(problem)]


def _both(call: Callable[[Problem], Tensor], problem: Problem) -> list[Tensor | None]:
    leaves = problem.with_leaves()
    out = call(leaves)
    floats = [getattr(leaves, name) for name in FLOATS]
    return [out.detach(), *torch.autograd.grad(out, floats, problem.upstream, allow_unused=True)]


def _measure_pass(
    implementation: Implementation,
    form: Callable[[Callable[[Problem], Tensor], Problem], list[Tensor | None]],
    step: Step,
    device: torch.device,
) -> dict[str, Any]:
    try:
        problem = make_problem(step.batch, step.length, step.dtype, device, heads=HEADS, d_head=D_HEAD)
        got = form(implementation.call, problem)
        difference = None
        if implementation.exact and implementation.name != implementation.peer:
            # The output and the gradients of q, k, v and the positions: those of the biases sum up what cancels out,
            # so that their error grows with the length.
            want = form(IMPLEMENTATIONS[implementation.peer].call, problem)
            difference = disagreement(got[:6], want[:6])
            del want
            if difference > TOLERANCES[step.dtype]:
                return {"status": "disagrees", "difference": difference}
        del got

        def call() -> list[Tensor | None]:
            return form(implementation.call, problem)

        peak = peak_bytes(call, device)
        timing = time_call(call, device, replay=step.batch * step.length <= REPLAYED_TOKENS)
    except torch.OutOfMemoryError:
        return {"status": "out of memory"}
    except Exception as error:  # a competitor that cannot take the case, for reasons of its own
        if device.type == "cuda":
            torch.cuda.synchronize()  # raises where the GPU itself is what failed
        return {"status": "failed", "reason": first_line(error)}
    return {"status": "timed", "difference": difference, **timing.as_dict(), "peak_bytes": peak}


def _grouped(left: Sequence[tuple[Step, str]]) -> list[dict[str, Any]]:
    names: dict[Step, list[str]] = {}
    for step, name in left:
        names.setdefault(step, []).append(name)
    return [{**_case(step), "implementations": listed} for step, listed in names.items()]


def _case(step: Step) -> dict[str, Any]:
    return {"dtype": str(step.dtype).removeprefix("torch."), "batch": step.batch, "length": step.length}


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def first_line(error: BaseException) -> str:
    """What an error says at first, cut to a line of a report; its type where it says nothing."""
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def _line(record: dict[str, Any]) -> str:
    def told(done: dict[str, Any]) -> str:
        return f"{done['median_ms']:.3f} ms" if done["status"] == "timed" else str(done["status"])

    case = f"{record['dtype']} B={record['batch']} T={record['length']}"
    return f"{case}  {record['implementation']}: {told(record[FORWARD])}, with the backward pass {told(record[BOTH])}"


def main() -> None:
    """Parses the arguments, measures, draws, and prints a short table or the summary as JSON."""
    parser = argparse.ArgumentParser(description="relative_attention against every other way to compute it")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="directory of the results")
    parser.add_argument("--seconds", type=float, default=300, help="when to stop; what is under way is finished")
    parser.add_argument("--dtype", nargs="+", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--batch", type=int, nargs="+")
    parser.add_argument("--length", type=int, nargs="+")
    parser.add_argument("--json", action="store_true", help="print targets and what was left out as JSON")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    dtypes = arguments.dtype or (["float16", "bfloat16"] if cuda else ["float32"])
    steps = plan(
        [getattr(torch, name) for name in dtypes],
        arguments.batch or (BATCHES if cuda else CPU_BATCHES),
        arguments.length or (LENGTHS if cuda else CPU_LENGTHS),
    )
    if not cuda:
        torch.set_num_threads(1)  # at toy sizes, more threads wait for each other more than they work
    arguments.output.mkdir(parents=True, exist_ok=True)
    report = run(list(steps), torch.device("cuda" if cuda else "cpu"), arguments.output, arguments.seconds)
    draw(report, arguments.output / PLOT)
    if arguments.json:
        print(json.dumps({name: report[name] for name in ("targets", "memory", "not_reached", "stopped")}))
    else:
        print("\n".join(summary_lines(report)))
    if report["stopped"] and report["stopped"].startswith(LOST):
        sys.exit(1)


if __name__ == "__main__":
    main()
