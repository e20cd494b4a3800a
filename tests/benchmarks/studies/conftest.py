"""The data of studies in small: one task of the shipped messages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, small_tables: tuple[Path, Path]) -> Path:
    """The data directory."""
    directory = tmp_path_factory.mktemp("data")
    (directory / "messages").mkdir()
    for table in small_tables:
        shutil.copy(table, directory / "messages" / table.name)
    return directory
