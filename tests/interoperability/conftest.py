"""Optimum's environment, and models exported by its command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import make_model

ENVIRONMENT = Path(__file__).parents[2] / ".venv" / "optimum"
# Families, and options of the command.
EXPORTS = {
    "bert": ("bert", ()),
    "bert-o2": ("bert", ("--optimize", "O2")),
    "roberta": ("roberta", ()),
    "distilbert": ("distilbert", ()),
}


@pytest.fixture(scope="session")
def optimum_python() -> Path:
    """The interpreter of Optimum's environment; without that environment the test is skipped."""
    if not (ENVIRONMENT / "ready").is_file():
        pytest.skip("Optimum is not installed: `make .venv/optimum/ready`, with a package index in reach")
    return ENVIRONMENT / "bin" / "python"


@pytest.fixture(scope="session", params=EXPORTS)
def optimum_export(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, optimum_python: Path
) -> Path:
    """A random single-label classifier as `optimum-cli export onnx` writes it; the model stays beside it as `model`."""
    family, options = EXPORTS[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    model = make_model(directory / "model", family, 2)
    _rename_tokenizer_class(model)
    return export_with_optimum(optimum_python, model, directory / "export", *options)


def export_with_optimum(python: Path, model: Path, output: Path, *options: str) -> Path:
    """Runs `optimum-cli export onnx`."""
    command = [python.with_name("optimum-cli"), "export", "onnx", "--model", model, "--task", "text-classification"]
    done = subprocess.run([*command, *options, output], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def _rename_tokenizer_class(model: Path) -> None:
    """Gives the tokenizer the class name that transformers 4 knows; the command leaves out one that it cannot load."""
    path = model / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**settings, "tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")
