"""The models that a server has, by name and version, and how one takes another's place while requests run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import InputError, NotFoundError, shown
from serve.codec import Codec, open_codec
from serve.model_process import LoadedModel, ModelProcess

_LOG = logging.getLogger("understudy.serve")

_NAME = re.compile(r"[\w.-]{1,128}")


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        path: the bundle's directory; what lies there may change, and is read anew when the model is reloaded.
        name: what callers call it; by default the manifest's own name.
    """

    path: Path
    name: str | None = None

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: a name that could not stand in a URL.
        """
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise InputError(f"'{shown(self.name)}' is no name for a model: letters, digits, '-', '_' and '.' make one")

    @classmethod
    def parse(cls, value: str) -> ModelSource:
        """`PATH` or `NAME=PATH`.

        Raises:
            InputError: a name that could not stand in a URL.
        """
        name, equals, path = value.partition("=")
        if not equals or Path(value).exists():
            return cls(Path(value))
        return cls(Path(path), name)


@dataclass(eq=False)
class ServedModel:
    """A model that answers.

    Attributes:
        name: what callers call it.
        source: where it came from.
        loaded: what the model process has.
        users: requests that work with it, so that it stays open until the last is answered.
        successor: what took its place, if anything did.
    """

    name: str
    source: ModelSource
    loaded: LoadedModel
    users: int = 0
    successor: ServedModel | None = None

    @property
    def codec(self) -> Codec:
        return self.loaded.codec

    @property
    def version(self) -> str:
        """As `Manifest.version`."""
        return self.codec.bundle.manifest.version

    def describe(self) -> dict[str, Any]:
        """What `/v1/model` tells."""
        bundle = self.codec.bundle
        return {
            "model": self.name,
            "version": self.version,
            "problem_type": bundle.task.problem_type,
            "labels": list(bundle.task.labels),
            "device": self.loaded.device,
            "manifest": bundle.manifest,
        }


class Repository:
    """Models by name; of several versions of one name the last is the one meant where none is named.

    Args:
        process: where the models are opened.
        check: raises `InputError` for a bundle that may not take the place of a model.
    """

    def __init__(self, process: ModelProcess, check: Callable[[Codec, ServedModel], None]):
        self._process = process
        self._check = check
        self._models: dict[str, list[ServedModel]] = {}
        # One bundle at a time, so that two reloads of a name do not cross.
        self._changing = asyncio.Lock()

    def __iter__(self) -> Iterator[ServedModel]:
        return (model for versions in self._models.values() for model in versions)

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """
        Raises:
            NotFoundError: no such model, or it has no such version.
        """
        versions = self._models.get(name)
        if not versions:
            raise NotFoundError(f"no model '{name}'; there are: {', '.join(self._models)}")
        if version is None:
            return versions[-1]
        for model in versions:
            if model.version == version:
                return model
        held = ", ".join(model.version for model in versions)
        raise NotFoundError(f"the model '{name}' has no version '{version}'; it has: {held}")

    @contextlib.contextmanager
    def in_use(self, model: ServedModel) -> Iterator[None]:
        """Within, the model stays open, even when another takes its place."""
        model.users += 1
        try:
            yield
        finally:
            model.users -= 1
            self._close_if_unused(model)

    async def add(self, source: ModelSource) -> ServedModel:
        """Loads a bundle as one more version of its name.

        Raises:
            InputError: the bundle will not do, or that version is there.
        """
        async with self._changing:
            model = await self._load(source, None)
            versions = self._models.setdefault(model.name, [])
            if any(other.version == model.version for other in versions):
                self._process.unload(model.loaded)
                raise InputError(f"{source.path}: version {model.version} of the model '{model.name}' is there twice")
            versions.append(model)
            return model

    async def reload(self, model: ServedModel, path: Path | None = None) -> tuple[ServedModel, ServedModel]:
        """Loads a bundle in a model's place; until that has gone well, the old one serves.

        Args:
            path: of the new bundle; by default the old one's, whose contents may be new.

        Returns:
            The one that served so far, which may be a successor of `model`, and the one that serves now: the same if
            the bundle has not changed.

        Raises:
            InputError: the new bundle will not do.
        """
        async with self._changing:
            while model.successor is not None:
                model = model.successor
            source = replace(model.source, path=path or model.source.path)
            fresh = await self._load(source, model)
            if fresh is model:
                return model, model
            versions = self._models[model.name]
            if any(other.version == fresh.version for other in versions if other is not model):
                self._process.unload(fresh.loaded)
                raise InputError(f"{source.path}: version {fresh.version} of the model '{model.name}' is there already")
            versions[versions.index(model)] = fresh
            model.successor = fresh
            self._close_if_unused(model)
            return model, fresh

    async def _load(self, source: ModelSource, old: ServedModel | None) -> ServedModel:
        codec = await asyncio.to_thread(open_codec, source.path)
        if old is not None:
            if source == old.source and codec.bundle.manifest == old.codec.bundle.manifest:
                return old
            self._check(codec, old)
        name = old.name if old else source.name or codec.name
        return ServedModel(name, source, await self._process.load(codec, name))

    def _close_if_unused(self, model: ServedModel) -> None:
        if model.successor is not None and model.users == 0:
            self._process.unload(model.loaded)
