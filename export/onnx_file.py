"""Graphs as files: saved, with external data where one file cannot hold them, and moved with that data."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir

# Protocol buffers end at 2 GiB; the structure of a graph needs a little of it.
ONE_FILE_BYTES = 2**31 - 2**24
_DATA_SUFFIX = "_data"  # model.onnx_data: the name that other tools of the field look for


def save_graph(model: ir.Model, path: Path) -> None:
    """Writes a graph, with its tensors in a second file beside it where they are too large for one."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    data = path.with_name(path.name + _DATA_SUFFIX)
    if size > ONE_FILE_BYTES:
        ir.save(model, path, external_data=data.name, size_threshold_bytes=1024)
    else:
        ir.save(model, path)


def move_graph(source: Path, target: Path) -> None:
    """Puts a graph's file, and the data beside it, in the place of another's of the same name.

    Raises:
        ValueError: the names differ; a graph knows its data by name.
    """
    if source.name != target.name:
        raise ValueError(f"{source.name} cannot become {target.name}")
    for old in graph_files(target):
        old.unlink()
    for file in graph_files(source):
        shutil.move(file, target.with_name(file.name))


def graph_files(path: Path) -> list[Path]:
    """A graph's file and its data, as far as they are there."""
    return [file for file in (path, path.with_name(path.name + _DATA_SUFFIX)) if file.is_file()]
