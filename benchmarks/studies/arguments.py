"""What the studies' commands have in common: names out of a list, and the command that writes a report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import InputError, UnderstudyError
from common.files import durable_file
from common.progress import say


def chosen_names(text: str, known: Iterable[str], what: str) -> list[str]:
    """`a,b` as ['a', 'b'].

    Raises:
        InputError: one of them is not known.
    """
    names, known = text.split(","), list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"there is no {what} '{unknown[0]}' in this study; it has {', '.join(known)}")
    return list(dict.fromkeys(names))


def write_report(make: Callable[[Path, Path], str], results: Path, output: Path) -> None:
    """Parses the arguments and writes the report; ends the process where the rows or the data will not do.

    Args:
        make: the text, from the directories of the data and of the rows.
        results, output: where they are by default.
    """
    parser = argparse.ArgumentParser(description="What the study's rows say")
    parser.add_argument("--data", type=Path, required=True, help="directory with a folder for each task")
    parser.add_argument("--results", type=Path, default=results, help="directory of the rows")
    parser.add_argument("--output", type=Path, default=output)
    given = parser.parse_args()
    try:
        text = make(given.data, given.results)
    except UnderstudyError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    with durable_file(given.output) as path:
        path.write_text(text, encoding="utf-8")
    say(f"Written to {given.output}")
