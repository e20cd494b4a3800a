"""The Python that README and docs/scoring.md show, run as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.messages import DEV
from tests.conftest import messages

ROOT = Path(__file__).resolve().parents[2]


def _examples(doc: str, section: str) -> list[str]:
    text = (ROOT / doc).read_text(encoding="utf-8")
    (part,) = re.findall(rf"^## {section}\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^```python\n(.*?)^```", part, re.MULTILINE | re.DOTALL)


EXAMPLES = [*_examples("README.md", "As a library"), *_examples("docs/scoring.md", "From Python")]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_runs(example: str, student_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "student-bundle").symlink_to(student_bundle)
    texts = [row["text"] for row in messages(DEV)[:5]]
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in texts) + "\n", encoding="utf-8")
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    if "texts.txt" in example:
        assert len(done.stdout.splitlines()) == 6
        assert "not classified: empty text" in done.stdout
    if "texts.jsonl" in example:
        assert done.stdout.splitlines()[-1].startswith("5 0 [(")
        assert (tmp_path / "scored.parquet").is_file()
