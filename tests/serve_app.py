"""The application over bundles, without a socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI

from serve.app import create_app
from serve.repository import ModelSource
from serve.settings import ServiceSettings


def app_of(
    *bundles: Path | ModelSource, teacher: Path | ModelSource | None = None, direct: bool = True, **options: Any
) -> FastAPI:
    """The application that serves these bundles, the first by default; `options` as in `ServiceSettings`."""
    sources = tuple(ModelSource(bundle) if isinstance(bundle, Path) else bundle for bundle in bundles)
    beside = ModelSource(teacher, "teacher") if isinstance(teacher, Path) else teacher
    return create_app(ServiceSettings(sources, beside, **options), direct=direct)
