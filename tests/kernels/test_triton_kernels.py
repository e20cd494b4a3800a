"""The CUDA kernels without a GPU: their results in Triton's interpreter, and their compiled form's resources."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels import dispatch
from kernels.arguments import Arguments
from kernels.configurations import Configuration, candidates

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from kernels import operands, triton_backward, triton_forward  # noqa: E402

# Triton's remark on a default that is going to change.
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

KERNELS = {
    "forward": triton_forward.forward_kernel,
    "queries": triton_backward.query_kernel,
    "keys": triton_backward.key_kernel,
}
POINTERS = {
    "logsumexp": "*fp32", "across": "*fp32", "delta": "*fp32", "dr": "*fp32", "sums": "*fp32",
    "query_segments": "*i64", "key_segments": "*i64", "mask": "*u8", "cu_seqlens": "*i32",
}  # fmt: skip
SCALARS = {"scale": "fp32", "dropout": "fp32", "seed": "i64"}
NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
# The most shared memory a block may have, by compute capability.
SHARED = {80: 163 * 1024, 90: 227 * 1024}
# Every configuration that ships, in one of the half types; in both where UNDERSTUDY_SOAK is set.
TYPES = (torch.float16, torch.float32, *((torch.bfloat16,) if os.environ.get("UNDERSTUDY_SOAK") else ()))
SHIPPED = [
    (kernel, dtype, d_head, sizes, roomy)
    for kernel in KERNELS
    for dtype in TYPES
    for d_head in (16, 32, 64, 128)
    if dtype != torch.float32 or d_head <= 64
    for roomy in (False, True)
    for sizes in candidates(kernel, dtype, d_head, roomy=roomy)
    if not roomy or sizes not in candidates(kernel, dtype, d_head, roomy=False)
]


@pytest.mark.parametrize("place", ["interpreter", "gpu"])
def test_results_follow_float64(place):
    if place == "gpu" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    environment = os.environ | {"TRITON_INTERPRET": "01"[place == "interpreter"], "PYTEST_ADDOPTS": ""}
    checks = Path(__file__).with_name("kernel_checks.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(checks)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


def compiled(kernel: Any, constants: dict[str, Any], element: str, capability: int, warps: int, stages: int) -> Any:
    """The kernel compiled ahead of time, its pointers aligned; an argument may be fixed, or None, by `constants`."""
    signature, attributes = {}, {}
    first_stride = kernel.arg_names.index("k_item" if "k_item" in kernel.arg_names else "q_item")
    for position, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif position < first_stride:
            signature[name] = POINTERS.get(name, f"*{element}")
        else:
            signature[name] = SCALARS.get(name, "i32")
        if signature[name].startswith("*") or (signature[name] == "i32" and name.endswith(("_head", "_row", "_group"))):
            attributes[(position,)] = [["tt.divisibility", 16]]
    constexprs = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=constexprs, attrs=attributes)
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def shape_constants(kernel: str, d_head: int, sizes: Configuration) -> dict[str, Any]:
    rows = {"ROWS": sizes.rows} if kernel == "forward" else {}
    return {"D": d_head, "BLOCK_D": d_head, "BLOCK": sizes.block, "UPCAST": False, **rows}


def resources(binary: bytes) -> tuple[int, int]:
    """Bytes of stack a thread has, and instructions that load or store spilled registers."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage, code = (
            subprocess.run([tools / tool, *options, file.name], capture_output=True, text=True, check=True).stdout
            for tool, options in (("cuobjdump", ["-res-usage"]), ("nvdisasm", []))
        )
    found = re.search(r"STACK:(\d+)", usage)
    assert found is not None, usage
    return int(found[1]), len(re.findall(r"\b(?:LDL|STL)\b", code))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("kernel", "dtype", "d_head", "sizes", "roomy"), SHIPPED)
def test_shipped_configurations_fit_the_chip(kernel, dtype, d_head, sizes, roomy):
    """The heaviest variant that a configuration is chosen for; packed texts are the forward kernel's other one."""
    variants = [{"PAIRS": not roomy, "DROPOUT": not roomy, "SEE_SELF": True}]
    if kernel == "forward":
        variants = [variants[0] | {"cu_seqlens": None}]
        variants.append({"PAIRS": False, "DROPOUT": False, "SEE_SELF": False, "mask": None, "logsumexp": None})
    if not roomy and os.environ.get("UNDERSTUDY_SOAK"):
        variants.append(variants[0] | {"PAIRS": False, "DROPOUT": False})
    for capability in (90,) if roomy else (80, 90):
        for variant in variants:
            constants = variant | shape_constants(kernel, d_head, sizes)
            result = compiled(KERNELS[kernel], constants, NAMES[dtype], capability, sizes.warps, sizes.stages)
            assert result.metadata.shared <= SHARED[capability]
            assert resources(result.asm["cubin"]) == (0, 0), f"registers spill: {variant}, {capability}"


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_compile_without_optional_arguments_for_one_token(kernel):
    config = candidates(kernel, torch.float16, 16, roomy=False)[0]
    # What Triton makes of absent tensors and of integers that are one.
    constants = dict.fromkeys(("position", "across", "r", "query_segments", "key_segments", "mask"))
    optional = {"dr", "segment_bias", "segment_embedding", "cu_seqlens", "logsumexp"}
    if kernel != "forward":
        optional.discard("logsumexp")
    constants |= dict.fromkeys(optional & set(KERNELS[kernel].arg_names))
    constants |= dict.fromkeys(("heads", "items", "qlen", "klen"), 1)
    constants |= shape_constants(kernel, 16, config)
    constants |= {"PAIRS": False, "DROPOUT": True, "SEE_SELF": False}
    result = compiled(KERNELS[kernel], constants, "fp16", 90, config.warps, config.stages)
    assert resources(result.asm["cubin"]) == (0, 0)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
def test_preparing_kernel_fits_the_chip(capability):
    constants = {"D": 128, "BLOCK_D": 128, "BLOCK": 32}
    result = compiled(operands.prepare_kernel, constants, "bf16", capability, 4, 3)
    assert resources(result.asm["cubin"]) == (0, 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"dtype": torch.float64}, "float64"),
        ({"d_head": 129}, "d_head 129"),
        ({"d_head": 128, "dtype": torch.float32}, "d_head 128 in torch.float32"),
        ({"batch": 40000}, "batch times heads is 80000"),
        ({"capability": (7, 5)}, "older than compute capability 8.0"),
        ({"device": "cpu"}, "cpu tensors"),
    ],
)
def test_what_does_not_fit_falls_back_with_a_reason(change, reason, monkeypatch):
    given = {"batch": 2, "d_head": 64, "dtype": torch.float16, "device": "cuda", "capability": (9, 0)} | change
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: given["capability"])

    class Query:
        shape = (given["batch"], 2, 5, given["d_head"])
        dtype = given["dtype"]
        device = torch.device(given["device"])

    found = dispatch.why_not(Arguments(**dict.fromkeys(Arguments._fields) | {"q": Query()}))
    assert found == reason if reason is None else reason in found


def test_reason_is_logged_once(caplog):
    dispatch._log_once.cache_clear()
    for _ in range(3):
        dispatch._log_once("float64")
    assert [r.getMessage() for r in caplog.records] == [
        "relative_attention: no fused kernel for float64; plain PyTorch runs instead"
    ]
