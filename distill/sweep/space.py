"""The sweep file: which settings are tried with which values, and how they are chosen.

[search]                  # absent: every combination of the lists, a grid
kind = "random"           # or "tpe"
trials = 20               # configurations of each variant
seed = 0

[settings]                # of every run: one value, a list of choices, or a range
layers = [2, 3]
learning_rate = {low = 1e-5, high = 1e-4, log = true}
seed = [0, 1, 2]          # every configuration runs with each of them

[[variants]]              # none, or several: what each adds to [settings] or puts in its place
method = "finetune"

[[variants]]
method = ["kd", "pkd-skip"]
temperature = [5, 10, 20]
"""

from __future__ import annotations

import itertools
import math
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from common.errors import InputError, shown
from common.files import require_file
from distill.settings import DistillationSettings, TrainingSettings

KINDS = ("grid", "random", "tpe")
MAX_RUNS = 10_000

# A configuration: values of settings by name, all but the seed. What is not in it has its default.
Configuration = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; with `log` their logarithms are drawn evenly."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int)


@dataclass(frozen=True)
class Variant:
    """One part of the space.

    Attributes:
        choices: the values of each setting but the seed.
        seeds: with which every configuration is run.
    """

    choices: dict[str, tuple[Any, ...] | Range]
    seeds: tuple[int, ...]

    def grid(self) -> Iterator[Configuration]:
        """Every combination of the choices; there must be no range among them."""
        lists = [values for values in self.choices.values() if not isinstance(values, Range)]
        for values in itertools.product(*lists):
            yield dict(zip(self.choices, values, strict=True))

    def probes(self) -> Iterator[Configuration]:
        """Configurations that a search may draw, in which every value, or end of a range, meets each of the others."""
        tried = {
            name: (values.low, values.high) if isinstance(values, Range) else values
            for name, values in self.choices.items()
        }
        first = {name: values[0] for name, values in tried.items()}
        for count in (1, 2):
            for names in itertools.combinations(tried, count):
                for values in itertools.product(*(tried[name] for name in names)):
                    yield {**first, **dict(zip(names, values, strict=True))}


@dataclass(frozen=True)
class Search:
    """How configurations are chosen: all of a grid, at `random`, or by `tpe` (Bergstra et al. 2011).

    Attributes:
        trials: configurations of each variant; of no meaning for a grid.
        seed: of what is drawn; the same seed draws the same configurations for every variant.
    """

    kind: str = "grid"
    trials: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Space:
    """A sweep file, checked."""

    variants: tuple[Variant, ...]
    search: Search

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return sum(self._configurations(variant) * len(variant.seeds) for variant in self.variants)

    @property
    def varied(self) -> list[str]:
        """The settings of which the sweep tries more than one value, seeds aside."""
        tried: dict[str, set[Any]] = {}
        for variant in self.variants:
            for name, values in variant.choices.items():
                tried.setdefault(name, set()).update([values] if isinstance(values, Range) else values)
        named = [name for name, values in tried.items() if len(values) > 1 or isinstance(next(iter(values)), Range)]
        lacking = [name for name in tried if any(name not in variant.choices for variant in self.variants)]
        return [name for name in tried if name in named or name in lacking]

    def _configurations(self, variant: Variant) -> int:
        if self.search.kind != "grid":
            return self.search.trials
        return math.prod(len(values) for values in variant.choices.values() if not isinstance(values, Range))


def read_space(path: Path) -> Space:
    """The space of a sweep file.

    Raises:
        InputError: no TOML; an unknown table, setting or search; a value of the wrong type or out of its bounds; an
            empty list; a range in a grid; more than `MAX_RUNS` runs.
    """
    try:
        content = tomllib.loads(require_file(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # bad TOML, bad UTF-8, brackets in brackets without end
        raise InputError(f"{path} is not valid TOML: {error}") from None
    try:
        return _space(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def make_settings(configuration: Configuration, seed: int) -> DistillationSettings:
    """The settings of one run.

    Raises:
        InputError: values that will not do, alone or together.
    """
    return DistillationSettings.from_flat({**configuration, "seed": seed})


def setting_types() -> dict[str, type]:
    """The type of every setting that a sweep can try, by name."""
    hints = {**get_type_hints(DistillationSettings), **get_type_hints(TrainingSettings)}
    del hints["training"]
    return {name: _without_none(hint) for name, hint in hints.items()}


def _space(content: Mapping[str, Any]) -> Space:
    _check_names(content, ("search", "settings", "variants"), "table")
    search = _search(_table(content.get("search", {}), "search"))
    common = _table(content.get("settings", {}), "settings")
    variants = content.get("variants", [{}])
    if not isinstance(variants, list) or not variants:
        raise InputError("'variants' must be tables, each headed [[variants]]")
    space = Space(tuple(_variant({**common, **_table(own, "variants")}, search) for own in variants), search)
    if space.runs > MAX_RUNS:
        raise InputError(
            f"{space.runs:,} runs; at most {MAX_RUNS:,} make a sweep: use lists of fewer values, or trials"
        )
    for variant in space.variants:
        for configuration in variant.grid() if search.kind == "grid" else variant.probes():
            make_settings(configuration, variant.seeds[0])
        for seed in variant.seeds:
            make_settings(configuration, seed)
    return space


def _search(given: dict[str, Any]) -> Search:
    _check_names(given, get_type_hints(Search), "search setting")
    search = Search(**{name: _checked(name, value, get_type_hints(Search)[name]) for name, value in given.items()})
    if search.kind not in KINDS:
        raise InputError(f"the search's kind must be one of {', '.join(KINDS)}, not '{shown(search.kind)}'")
    if search.kind == "grid" and search.trials:
        raise InputError("a grid has no trials: it tries every combination")
    if search.kind != "grid" and search.trials < 1:
        raise InputError(f"a {search.kind} search needs trials, a number from 1")
    if not 0 <= search.seed < 2**32:
        raise InputError("the search's seed must lie between 0 and 2³² - 1")
    return search


def _variant(given: dict[str, Any], search: Search) -> Variant:
    types = setting_types()
    _check_names(given, types, "setting")
    choices = {name: _choices(name, value, types[name]) for name, value in given.items()}
    seeds = choices.pop("seed", (0,))
    if isinstance(seeds, Range):
        raise InputError("'seed' must be a number or a list of numbers: every configuration runs with each of them")
    if "layers" not in choices:
        raise InputError("'layers' is missing: the student's depth has no default")
    ranges = [name for name, values in choices.items() if isinstance(values, Range)]
    if ranges and search.kind == "grid":
        raise InputError(f"'{ranges[0]}' is a range, which a grid cannot try: use a list, or kind = \"random\"")
    return Variant(choices, seeds)


def _choices(name: str, value: Any, kind: type) -> tuple[Any, ...] | Range:
    if isinstance(value, dict):
        return _range(name, value, kind)
    values = value if isinstance(value, list) else [value]
    if not values:
        raise InputError(f"'{name}' is an empty list")
    checked = tuple(_checked(name, entry, kind) for entry in values)
    if len(set(checked)) < len(checked):
        raise InputError(f"'{name}' has a value twice")
    return checked


def _range(name: str, given: dict[str, Any], kind: type) -> Range:
    if kind not in (int, float):
        raise InputError(f"'{name}' is no number, so it has no range: use a list")
    _check_names(given, ("low", "high", "log"), f"part of the range of '{name}'")
    for bound in ("low", "high"):
        if bound not in given:
            raise InputError(f"the range of '{name}' has no '{bound}'")
    low, high = (_checked(name, given[bound], kind) for bound in ("low", "high"))
    log = _checked(f"{name}'s log", given.get("log", False), bool)
    if not low < high:
        raise InputError(f"the range of '{name}' must have its low below its high")
    if log and low <= 0:
        raise InputError(f"the range of '{name}' is logarithmic, so it must begin above 0")
    return Range(low, high, log)


def _checked(name: str, value: Any, kind: type) -> Any:
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) is not kind or kind is float:
        wanted = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}[kind]
        raise InputError(f"'{name}' must be {wanted}, not {shown(repr(value))}")
    return value


def _check_names(given: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...], what: str) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"'{shown(name)}' is an unknown {what}; these are known: {', '.join(known)}")


def _table(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"'{name}' must be a table")
    return value


def _without_none(hint: Any) -> type:
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not NoneType]
    found: type = kinds[0]
    return found
