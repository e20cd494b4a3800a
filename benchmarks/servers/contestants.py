"""The servers that are compared: how each is started, what it is asked, and where its answer has the label."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.servers.processes import HOST, free_ports
from common.errors import WorkFailedError

OURS = {"understudy-fp32": "fp32", "understudy-int8": "int8"}
OTHERS = ("fastapi", "litserve", "mlserver", "infinity")
NAMES = (*OURS, *OTHERS)

# Of the servers that batch: texts, and seconds that an incomplete batch waits.
BATCH_SIZE, BATCH_TIMEOUT = 16, 0.002

_ROOT = Path(__file__).parents[2]
_APPS = "benchmarks.servers.apps"
# What else is in each environment and matters for speed.
_LIBRARIES = ("onnxruntime", "torch", "transformers", "tokenizers", "fastapi", "uvicorn", "numpy")


@dataclass(frozen=True)
class Contestant:
    """One server.

    Attributes:
        name: one of `NAMES`.
        package: the server's own distribution.
        python: the interpreter of its environment.
        command: from a port and an empty directory to what starts it.
        ready_path: answers 200 once it is ready.
        path: where texts are posted.
        body: from a text to the JSON posted.
        label: from the JSON answered to the label.
        settings: what was set, for the report.
        bundle: 'fp32' or 'int8': the bundle whose engine gives its labels, and the ceiling that it is held against.
        environment: variables that it needs.
    """

    name: str
    package: str
    python: Path
    command: Callable[[int, Path], list[object]]
    ready_path: str
    path: str
    body: Callable[[str], Any]
    label: Callable[[Any], str]
    settings: dict[str, Any] = field(default_factory=dict)
    bundle: str = "fp32"
    environment: Mapping[str, str] = field(default_factory=dict)

    def require_installed(self) -> None:
        """
        Raises:
            WorkFailedError: its environment is not there or not complete.
        """
        directory = self.python.parent.parent
        if self.python == Path(sys.executable) or (directory / "ready").is_file():
            return
        log = directory / "pip.log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        said = " ".join(line for line in lines if line.startswith("ERROR"))[-500:] or "run make servers"
        raise WorkFailedError(f"{self.package} is not installed: {said}")

    def versions(self) -> dict[str, str]:
        """Of its package and of what it stands on, as its own interpreter sees them."""
        program = (
            "import json, sys\nfrom importlib.metadata import PackageNotFoundError, version\nfound = {}\n"
            "for name in sys.argv[1:]:\n    try: found[name] = version(name)\n    except PackageNotFoundError: pass\n"
            "print(json.dumps(found))"
        )
        command = [str(self.python), "-c", program, self.package, *_LIBRARIES]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, str] = json.loads(done.stdout)
        return found


def make_contestants(
    model: Path, plain: Path, bundles: Mapping[str, Path], serve_options: Sequence[str]
) -> list[Contestant]:
    """All contestants, ours first.

    Args:
        model: the student in the Hub's layout.
        plain: its plain ONNX export, beside config and tokenizer.
        bundles: by 'fp32' and 'int8'.
        serve_options: more arguments for `understudy serve`.
    """
    ours = [_understudy(name, bundles[precision], precision, serve_options) for name, precision in OURS.items()]
    return [*ours, _fastapi(plain), _litserve(plain), _mlserver(plain), _infinity(model)]


def _understudy(name: str, bundle: Path, precision: str, options: Sequence[str]) -> Contestant:
    return Contestant(
        name=name,
        package="understudy",
        python=Path(sys.executable),
        command=lambda port, _: [sys.executable, "-m", "understudy", "serve", bundle, "--port", port, *options],
        ready_path="/health/ready",
        path="/v1/classify",
        body=lambda text: {"inputs": [text]},
        label=lambda answer: str(answer["outputs"][0]["label"]),
        settings={"options": list(options)},
        bundle=precision,
    )


def _fastapi(plain: Path) -> Contestant:
    return Contestant(
        name="fastapi",
        package="fastapi",
        python=Path(sys.executable),
        command=lambda port, _: [sys.executable, "-m", f"{_APPS}.fastapi_app", plain, port],
        ready_path="/health",
        path="/classify",
        body=lambda text: {"text": text},
        label=lambda answer: str(answer["label"]),
        settings={"batching": None},
        environment={"PYTHONPATH": str(_ROOT)},
    )


def _litserve(plain: Path) -> Contestant:
    python = _interpreter("litserve")
    return Contestant(
        name="litserve",
        package="litserve",
        python=python,
        command=lambda port, _: [python, "-m", f"{_APPS}.litserve_app", plain, port, BATCH_SIZE, BATCH_TIMEOUT],
        ready_path="/health",
        path="/predict",
        body=lambda text: {"text": text},
        label=lambda answer: str(answer["label"]),
        settings={"max_batch_size": BATCH_SIZE, "batch_timeout": BATCH_TIMEOUT},
        environment={"PYTHONPATH": str(_ROOT)},
    )


def _mlserver(plain: Path) -> Contestant:
    python = _interpreter("mlserver")
    settings = {"max_batch_size": BATCH_SIZE, "max_batch_time": BATCH_TIMEOUT}

    def command(port: int, directory: Path) -> list[object]:
        grpc, metrics = free_ports(2)
        ports = {"host": HOST, "http_port": port, "grpc_port": grpc, "metrics_port": metrics}
        (directory / "settings.json").write_text(json.dumps({**ports, "debug": False}))  # debugging logs every request
        runtime = {
            "name": "student",
            "implementation": f"{_APPS}.mlserver_runtime.StudentRuntime",
            "parameters": {"uri": str(plain)},
            **settings,
        }
        (directory / "model-settings.json").write_text(json.dumps(runtime))
        return [python.with_name("mlserver"), "start", directory]

    return Contestant(
        name="mlserver",
        package="mlserver",
        python=python,
        command=command,
        ready_path="/v2/models/student/ready",
        path="/v2/models/student/infer",
        body=lambda text: {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}]},
        label=lambda answer: str(_output(answer, "label")["data"][0]),
        settings={**settings, "runtime": "custom, ONNX Runtime", "parallel_workers": "its default"},
        environment={"PYTHONPATH": str(_ROOT)},
    )


def _infinity(model: Path) -> Contestant:
    python = _interpreter("infinity")
    options = ["--engine", "torch", "--device", "cpu", "--served-model-name", "student", "--no-bettertransformer"]
    return Contestant(
        name="infinity",
        package="infinity-emb",
        python=python,
        command=lambda port, _: [
            *(python.with_name("infinity_emb"), "v2", "--model-id", model, "--host", HOST, "--port", port),
            *options,
        ],
        ready_path="/health",
        path="/classify",
        body=lambda text: {"model": "student", "input": [text]},
        label=lambda answer: str(max(answer["data"][0], key=lambda entry: entry["score"])["label"]),
        settings={"options": options},
        environment={"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"},
    )


def _output(answer: Any, name: str) -> Any:
    return next(output for output in answer["outputs"] if output["name"] == name)


def _interpreter(name: str) -> Path:
    return Path(sys.prefix) / "servers" / name / "bin" / "python"
