"""Which format a table has, and how it is compressed, by its name's ending."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Literal

from common.errors import InputError
from common.location import STDIN, Location
from common.uris import is_uri, without_options

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
TEXT_FORMATS = ("csv", "tsv", "jsonl")

Compression = Literal["gzip", "zstd"]
# Of text alone: Parquet and Arrow files compress what is in them.
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}

# All that a table's name may end in.
ENDINGS = (
    *FORMATS,
    *(ending + packed for ending, format in FORMATS.items() if format in TEXT_FORMATS for packed in COMPRESSIONS),
)


def table_format(source: Path | str | Location) -> str:
    """`csv`, `tsv`, `jsonl`, `parquet` or `arrow` (IPC), by the name's ending; standard input is JSON Lines.

    Raises:
        InputError: any other ending.
    """
    if _is_stdin(source):
        return "jsonl"
    name = _name(source)
    packed = compression(source) is not None
    format = FORMATS.get((name.with_suffix("") if packed else name).suffix)
    if format is None or (packed and format not in TEXT_FORMATS):
        raise InputError(
            f"{without_options(str(source))}: unknown table format; the name must end in {', '.join(FORMATS)}, "
            f"that of a text with {' or '.join(COMPRESSIONS)} behind where it is compressed"
        )
    return format


def compression(source: Path | str | Location) -> Compression | None:
    """How the file is compressed as a whole."""
    return None if _is_stdin(source) else COMPRESSIONS.get(_name(source).suffix)


def _is_stdin(source: Path | str | Location) -> bool:
    return source.is_stdin if isinstance(source, Location) else source == STDIN


def _name(source: Path | str | Location) -> PurePosixPath:
    text = str(source)
    return PurePosixPath((without_options(text) if is_uri(text) else text).lower())
