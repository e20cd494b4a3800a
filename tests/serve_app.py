"""The application over bundles, without a socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI

from serve.app import create_app
from serve.repository import ModelSource
from serve.settings import ServiceSettings


def app_of(*bundles: Path, teacher: Path | None = None, direct: bool = True, **options: Any) -> FastAPI:
    """The application that serves these bundles, the first by default; `options` as in `ServiceSettings`."""
    beside = None if teacher is None else ModelSource(teacher, "teacher")
    return create_app(ServiceSettings(tuple(map(ModelSource, bundles)), beside, **options), direct=direct)
