"""The corpus: every text of every task's tables, once, but for the texts that are reported on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.studies.pkd.data import Tables, words
from benchmarks.studies.pkd.plan import TASKS as TABLES
from common.errors import InputError
from common.examples import read_examples
from common.files import durable_file
from common.tokenization import Text


def write_corpus(data: Path, reported: Sequence[Tables], path: Path) -> Path:
    """One text a line, in the tables' order; a file that is there is taken as it is.

    Args:
        data: the directory with a folder for each task.
        reported: whose dev texts are left out, whatever table has them.

    Raises:
        InputError: a table is missing or will not do.
    """
    if not path.exists():
        hidden = {words(part) for tables in reported for part in _dev_texts(tables)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with durable_file(path) as new, new.open("w", encoding="utf-8") as file:
            seen: set[str] = set()
            for text in _texts(data):
                line = " ".join(text.split())
                if line and line not in seen and words(line) not in hidden:
                    file.write(f"{line}\n")
                    seen.add(line)
            if not seen:
                raise InputError(f"{data} has no text that is not reported on")
    return path


def _texts(data: Path) -> Iterator[str]:
    for plan in TABLES.values():
        for name in (plan.train, plan.dev):
            if name is not None:
                for text in read_examples(str(data / name), plan.columns).texts:
                    yield from _parts(text)


def _dev_texts(tables: Tables) -> Iterator[str]:
    for text in read_examples(str(tables.dev), tables.columns).texts:
        yield from _parts(text)


def _parts(text: Text) -> Sequence[str]:
    return text if isinstance(text, tuple) else (text,)
