"""What the tests of pretraining read and what its runs end with, each made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.pretraining import pretraining as module
from tests.distill.pretraining.tiny import (
    OBJECTIVES,
    SETTINGS,
    Files,
    TinyObjective,
    run_pretrain,
    settings_for,
    write_config,
    write_corpus,
)


@pytest.fixture(scope="session")
def pretraining_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A corpus, and a config of each family."""
    directory = tmp_path_factory.mktemp("given")
    return {
        "corpus": write_corpus(directory / "corpus.txt"),
        **{family: write_config(directory / f"{family}.json", family) for family in ("bert", "xlnet")},
    }


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, pretraining_files: Files) -> Path:
    """What runs of each objective, and of the tests' own, end with that nothing stopped."""
    directory = tmp_path_factory.mktemp("undisturbed")
    for objective in OBJECTIVES:
        run_pretrain(pretraining_files, directory / objective, settings_for(objective))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(module.OBJECTIVES, "masked", TinyObjective)
        run_pretrain(pretraining_files, directory / "tiny", SETTINGS)
    return directory


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.OBJECTIVES, "masked", TinyObjective)
