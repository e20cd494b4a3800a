"""A directory that one process at a time works in, whatever ends the one before."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.locks import held_directory

HOLD = """
import sys
from pathlib import Path
from common.locks import held_directory
with held_directory(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_kept_out_until_the_holder_is_killed(tmp_path: Path) -> None:
    with _holder(tmp_path / "d") as process:
        with pytest.raises(BlockingIOError), held_directory(tmp_path / "d"):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held_directory(tmp_path / "d"):
            pass


def test_whoever_waits_gets_it_when_the_holder_ends(tmp_path: Path) -> None:
    with _holder(tmp_path / "d") as process:
        assert process.stdin is not None
        process.stdin.close()
        with held_directory(tmp_path / "d", wait=True):
            assert process.wait() == 0


def test_a_directory_that_its_holder_removed_is_made_again(tmp_path: Path) -> None:
    with held_directory(tmp_path / "d"):
        shutil.rmtree(tmp_path / "d")
        with held_directory(tmp_path / "d"), pytest.raises(BlockingIOError), held_directory(tmp_path / "d"):
            pass
