"""How close a model comes to what the machine can do: its matrix products, and the machine's peak at matrix products.

After the roofline of Williams, Waterman and Patterson 2009, of which only the flat part is drawn: encoders at these
sizes are bound by arithmetic, not by memory.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench.estimates import ENOUGH_ROUNDS, Estimate, estimate
from common.errors import WorkFailedError, first_line
from common.machine import usable_cores
from common.tokenization import Encoded, TextEncoder
from export.bundle import Bundle

DTYPE = "float32"
# Rows and columns of the measured product: large enough for full speed, small enough for a core's own cache (3 MiB).
_SIZE = 512
# Products of a round, of which the fastest counts: whatever else runs can only slow one down.
_PRODUCTS = 40
_ROUNDS = 2 * ENOUGH_ROUNDS + 1
# Products by a matrix that is a parameter: of the first input's rows, which the output has too.
_BY_WEIGHTS = frozenset(
    {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
    | {"QLinearMatMul", "QGemm", "MatMulNBits", "GemmFloat8"}
)


@dataclass(frozen=True)
class Roofline:
    """What the machine reaches in matrix products.

    Attributes:
        peak: FLOP/s, a multiplication and an addition as two.
        threads: that computed.
    """

    peak: Estimate
    threads: int

    def as_dict(self) -> dict[str, Any]:
        """`roofline` of `results.json`."""
        return {
            "peak_flops_per_s": self.peak.as_dict(),
            "how": f"ONNX Runtime, products by a constant {_SIZE} × {_SIZE} matrix, the fastest of {_PRODUCTS} in each "
            f"of {_ROUNDS} rounds",
            "threads": self.threads,
            "dtype": DTYPE,
        }


class MatrixProduct:
    """A product by a square matrix, computed as a model's are: by ONNX Runtime on the CPU, which packs weights before.

    Args:
        threads: as in `Engine.load`.
    """

    def __init__(self, threads: int):
        self.threads = threads or usable_cores()
        self._session = _open(_product_graph(), self.threads)
        draw = np.random.default_rng(0)
        self._inputs = {"a": draw.standard_normal((_SIZE, _SIZE), np.float32)}
        self.run()

    def run(self) -> float:
        """FLOP/s of one product."""
        started = time.perf_counter()
        self._session.run(None, self._inputs)
        return 2 * _SIZE**3 / (time.perf_counter() - started)


def measure_peak(threads: int) -> Roofline:
    """The machine's peak at float32 matrix products, with so many threads (0: one a core)."""
    product = MatrixProduct(threads)
    rounds = [max(product.run() for _ in range(_PRODUCTS)) for _ in range(_ROUNDS)]
    return Roofline(estimate(rounds), product.threads)


def flops_by_length(bundle: Bundle, lengths: Iterable[int]) -> dict[int, float]:
    """Floating-point operations of the matrix products that a bundle's graph computes for a text of so many tokens.

    Counted from the shapes that ONNX Runtime reports while it runs a text of each length alone, so that what the graph
    leaves out (padding, positions of the last layer that the head does not read) does not count. Integer products count
    like others.

    Raises:
        WorkFailedError: the graph has products whose size cannot be told, or does not run on the CPU.
    """
    encoder = TextEncoder.load(bundle.path)
    distinct = sorted(set(lengths))
    # Any tokens do: no product's shape hangs on which they are.
    texts = [encoder.pad([Encoded([1] * length, [0] * length, False)]) for length in distinct]
    runs = _profile(bundle.model_path, [{name: text[name] for name in bundle.manifest.inputs} for text in texts])
    return {length: float(sum(map(_node_flops, nodes))) for length, nodes in zip(distinct, runs, strict=True)}


def _profile(model: Path, runs: Sequence[dict[str, NDArray[Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Of each run, and of each node that it ran: `op_name`, and the shapes of its inputs and outputs by type."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            session = _open(model, 1, profile=Path(directory) / "profile")
            for given in runs:
                session.run(None, given)
        except Exception as error:  # the runtime's errors share no base class
            raise WorkFailedError(f"{model} does not run on the CPU: {first_line(error)}") from None
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes: list[dict[str, Any]] = []
    for event in events:
        if event["name"].endswith("_kernel_time"):
            nodes.append(event["args"])
        elif event["name"] == "model_run":  # stands behind what it ran
            yield nodes
            nodes = []


def _node_flops(node: dict[str, Any]) -> int:
    """Of one node's products; weights that the runtime has repacked have no shape here."""
    kind = node["op_name"]
    inputs = [shape for entry in node["input_type_shape"] for shape in entry.values()]
    outputs = [shape for entry in node["output_type_shape"] for shape in entry.values()]
    if kind in _BY_WEIGHTS:
        return 2 * int(np.prod(outputs[0])) * inputs[0][-1]
    if kind == "MultiHeadAttention":
        (batch, rows, width), (_, columns, _), (_, _, value_width) = inputs[:3]
        return 2 * batch * rows * columns * (width + value_width)
    if kind in ("Attention", "QAttention"):
        # Projects a text's tokens to queries, keys and values, and attends.
        batch, rows, width = inputs[0]
        inner = outputs[0][-1]
        return 2 * batch * rows * inner * (3 * width + 2 * rows)
    if kind in ("Einsum", "Conv", "FusedConv", "GroupQueryAttention", "PackedMultiHeadAttention"):
        raise WorkFailedError(f"the products of the operator {kind} cannot be counted")
    return 0


def _open(model: Path | bytes, threads: int, *, profile: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _product_graph() -> bytes:
    """An ONNX model of one node, c = a b, of which b is a constant.

    Written out by hand (onnx.proto, in protobuf's wire format), since machines that only serve have no onnx.
    """
    weights = np.random.default_rng(1).standard_normal((_SIZE, _SIZE), np.float32)
    dimension = _varint(_SIZE)
    size = _field(1, b"\x08" + dimension)
    tensor = _field(1, b"\x08\x01" + _field(2, size + size))  # float, its shape
    graph = _field(1, _field(1, b"a") + _field(1, b"b") + _field(2, b"c") + _field(4, b"MatMul"))
    graph += _field(2, b"product")
    constant = b"\x08" + dimension + b"\x08" + dimension + b"\x10\x01" + _field(8, b"b") + _field(9, weights.tobytes())
    graph += _field(5, constant)
    for place, name in ((11, b"a"), (12, b"c")):
        graph += _field(place, _field(1, name) + _field(2, tensor))
    opset = _field(8, b"\x10\x0d")  # version 13
    return b"\x08\x08" + opset + _field(7, graph)  # ir_version 8


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])
