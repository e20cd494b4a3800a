"""Data sets by name, through the datasets library: `hub:NAME[/CONFIG]`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common.errors import InputError

HUB_PREFIX = "hub:"


def read_hub_rows(source: str, split: str) -> tuple[list[str], Iterator[tuple[int, dict[str, Any]]]]:
    """Column names and numbered rows of `hub:NAME[/CONFIG]`; class numbers come back as their names.

    NAME is `owner/name` or a name alone, so two parts are read as `owner/name` first and as `name/config` after that.

    Raises:
        InputError: there is no such data set, or neither network nor cache has it.
    """
    try:
        from datasets import ClassLabel, load_dataset
    except ImportError:
        raise InputError("hub: data sets need the training extra: pip install 'understudy[train]'") from None

    def class_label(kind: Any) -> ClassLabel | None:
        # A column of lists keeps the kind of its elements in `feature`.
        kind = getattr(kind, "feature", kind)
        return kind if isinstance(kind, ClassLabel) else None

    parts = source.removeprefix(HUB_PREFIX).split("/")
    readings: list[tuple[str, str | None]]
    match parts:
        case [name] if name:
            readings = [(name, None)]
        case [first, second] if first and second:
            readings = [(f"{first}/{second}", None), (first, second)]
        case [owner, name, config_name] if owner and name and config_name:
            readings = [(f"{owner}/{name}", config_name)]
        case _:
            raise InputError(f"'{source}' is not of the form hub:NAME[/CONFIG]")
    failure: Exception | None = None
    for full_name, config in readings:
        try:
            table: Any = load_dataset(full_name, config, split=split)
            break
        except Exception as error:  # the library raises a dozen kinds for one meaning: it cannot be had
            failure = failure or error
    else:
        reason = str(failure).strip().splitlines()[0] if str(failure).strip() else type(failure).__name__
        raise InputError(f"{source}: the split '{split}' cannot be loaded: {reason}")
    classes = {name: found.names for name, kind in table.features.items() if (found := class_label(kind)) is not None}

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(table, start=1):
            yield number, {name: _named(value, classes.get(name)) for name, value in row.items()}

    return list(table.column_names), rows()


def _named(value: Any, names: list[str] | None) -> Any:
    """Class numbers as their names; -1, which stands for no label, as None."""
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(entry, names) for entry in value]
    return names[value] if value >= 0 else None
