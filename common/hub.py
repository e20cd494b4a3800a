"""Data sets by name, through the datasets library: `hub:NAME[/CONFIG]`."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from common.errors import InputError, first_line

HUB_PREFIX = "hub:"


@dataclass(frozen=True)
class HubTable:
    """One split of a data set.

    Attributes:
        columns: the column names.
        classes: for columns of classes, their names in the data set's order.
    """

    columns: list[str]
    classes: dict[str, tuple[str, ...]]
    _rows: Any

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each row with its number, from 1; class numbers come as their names."""
        for number, row in enumerate(self._rows, start=1):
            yield number, {name: _named(value, self.classes.get(name)) for name, value in row.items()}


def read_hub_table(source: str, split: str) -> HubTable:
    """A split of `hub:NAME[/CONFIG]`.

    NAME is `owner/name` or a name alone, so two parts are read as `owner/name` first and as `name/config` after that.

    Raises:
        InputError: there is no such data set, or neither network nor cache has it.
    """
    try:
        from datasets import ClassLabel, load_dataset
    except ImportError:
        raise InputError(
            "hub: data sets need the training extra: pip install '.[train]' in Understudy's directory"
        ) from None
    _stay_offline_without_a_way_out()
    failure: Exception | None = None
    for name, config in _readings(source):
        try:
            table: Any = load_dataset(name, config, split=split)
            break
        except Exception as error:  # the library raises a dozen kinds for one meaning: it cannot be had
            failure = failure or error
    else:
        assert failure is not None
        raise InputError(f"{source}: the split '{split}' cannot be loaded: {first_line(failure)}")
    # A column of lists keeps the kind of its elements in `feature`.
    kinds = {name: getattr(kind, "feature", kind) for name, kind in table.features.items()}
    classes = {name: tuple(kind.names) for name, kind in kinds.items() if isinstance(kind, ClassLabel)}
    return HubTable(list(table.column_names), classes, table)


def _stay_offline_without_a_way_out() -> None:
    """Without a network the library would try for half a minute; the cache is all there is, so it is asked alone."""
    import datasets
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if constants.HF_HUB_OFFLINE or host is None or getproxies():
        return
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
        datasets.config.HF_HUB_OFFLINE = True


def _readings(source: str) -> list[tuple[str, str | None]]:
    match source.removeprefix(HUB_PREFIX).split("/"):
        case [name] if name:
            return [(name, None)]
        case [first, second] if first and second:
            return [(f"{first}/{second}", None), (first, second)]
        case [owner, name, config] if owner and name and config:
            return [(f"{owner}/{name}", config)]
    raise InputError(f"'{source}' is not of the form hub:NAME[/CONFIG]")


def _named(value: Any, names: tuple[str, ...] | None) -> Any:
    """Class numbers as their names; -1, which stands for no label, as None."""
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(entry, names) for entry in value]
    return names[value] if value >= 0 else None
