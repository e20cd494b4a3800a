"""Inputs as the user names them (a file, a glob, a directory, standard input) into the files that they stand for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from common.errors import InputError
from common.location import Location
from common.table_formats import table_format

__all__ = ["Location", "expand"]

_WILDCARDS = frozenset("*?[")
# As Spark and pyarrow's data sets have it: a directory's own business, not its rows.
_ASIDE = (".", "_")


def expand(inputs: Sequence[str | Path]) -> list[Location]:
    """The files that the inputs stand for.

    A file is itself. A glob's files (`*`, `?`, `[...]`; `**` for any number of directories) come sorted; names with a
    dot in front match only a pattern that has it too, as in a shell. A directory, named or matched by a glob without
    `**`, is all tables in it and in its sub-directories, sorted by path; what begins with `.` or `_` is left aside. A
    name with a wildcard in it that exists is that file. `-` is standard input and stands alone.

    Raises:
        InputError: nothing is there, or nothing that a glob matches; a file that is no table by its ending; the same
            file twice; standard input among others.
        WorkFailedError: a store cannot be reached.
    """
    files: list[Location] = []
    for text in inputs:
        location = Location.parse(text)
        if location.is_stdin:
            if len(inputs) > 1:
                raise InputError("standard input (-) cannot stand among other inputs")
            return [location]
        files += _files_of(location)
    _refuse_repeated(files)
    for file in files:
        table_format(file)
    return files


def _files_of(location: Location) -> list[Location]:
    parts = location.path.split("/")
    first = next((index for index, part in enumerate(parts) if _WILDCARDS.intersection(part)), None)
    info = location.info()
    if info is None and first is not None:
        base = location.ancestor(len(parts) - first)
        found = sorted(_matching(base, parts[first:]), key=lambda file: file.path)
        if not found:
            raise InputError(f"{location}: no file matches")
        return found
    if info is None or not info.is_directory:
        location.require_file()
        return [location]
    return _tables_below(location)


def _tables_below(directory: Location) -> list[Location]:
    found = [directory.child(path) for path in directory.files_below(_ASIDE)]
    if not found:
        raise InputError(f"{directory}: the directory holds no tables")
    return found


def _matching(directory: Location, patterns: Sequence[str]) -> Iterator[Location]:
    first, *rest = patterns
    if first == "**":
        for path in directory.files_below((".",)):
            if _matches(path.split("/"), patterns):
                yield directory.child(path)
    elif rest and not _WILDCARDS.intersection(first):
        yield from _matching(directory.child(first), rest)
    else:
        for name, is_directory in directory.entries():
            if not _matches([name], [first]):
                continue
            if is_directory and rest:
                yield from _matching(directory.child(name), rest)
            elif is_directory:
                yield from _tables_below(directory.child(name))
            elif not rest:
                yield directory.child(name)


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether the parts of a path are those of a pattern; `**` stands for any number of directories."""
    if not patterns:
        return not names
    first, *rest = patterns
    if first == "**":
        return any(_matches(names[count:], rest or ["*"]) for count in range(len(names)))
    if not names or (names[0].startswith(".") and not first.startswith(".")):
        return False
    return fnmatchcase(names[0], first) and _matches(names[1:], rest)


def _refuse_repeated(files: Sequence[Location]) -> None:
    seen: dict[str, Location] = {}
    for file in files:
        key = file.path if file.local is None else os.path.realpath(file.local)
        other = seen.setdefault(key, file)
        if other is not file and other.filesystem == file.filesystem:
            raise InputError(f"{file} is the same file as {other}: name it once")
