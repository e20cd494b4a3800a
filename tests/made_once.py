"""What the processes that share a run of the tests make once, and all of them use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from common.locks import held_directory

Factory = pytest.TempPathFactory


def made_once(factory: Factory, name: str, make: Callable[[Path], Path]) -> Path:
    """What `make` puts into a directory, made by the first of the processes.

    Args:
        make: gives the path that is wanted.
    """
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    directory = root / "shared" / name
    with held_directory(directory, wait=True):
        done = directory / "path"
        if not done.exists():
            done.write_text(str(make(directory)))
        return Path(done.read_text())


@pytest.fixture(scope="session", autouse=True)
def traced_once(tmp_path_factory: Factory) -> Iterator[None]:
    """A model is traced for `export` once: most tests of exports are of what comes after that.

    A test that changes the tracer itself must call `export_graph` of `export.onnx_graph`, which is never replaced.
    """
    exporting = sys.modules.get("export.exporting")
    if exporting is None:  # no test of this run is of exports, and importing it takes a while
        yield
        return
    from export import onnx_file

    trace = exporting.export_graph

    def trace_once(model: PreTrainedModel, names: tuple[str, ...], path: Path, opset: int) -> None:
        about = [type(model).__name__, model.config._attn_implementation, model.dtype, names, path.name, opset]
        config = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
        digest = hashlib.sha256(json.dumps([*about, config, onnx_file.ONE_FILE_BYTES], default=str).encode())
        for name, tensor in model.state_dict().items():
            digest.update(name.encode() + tensor.numpy().tobytes())

        def make(directory: Path) -> Path:
            trace(model, names, directory / path.name, opset)
            return directory

        graph = made_once(tmp_path_factory, f"graph-{digest.hexdigest()}", make)
        for file in graph.glob(f"{path.name}*"):
            shutil.copyfile(file, path.parent / file.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "export_graph", trace_once)
        yield
