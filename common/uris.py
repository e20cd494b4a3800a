"""URIs of files, with pyarrow's options in their query."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from common.errors import InputError
from common.store_faults import told

# Google's library tries for a quarter of an hour by default.
_GCS_RETRY = "retry_limit_seconds"
_GCS_RETRY_SECONDS = 5

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# A question mark is a wildcard unless options follow it.
_QUERY = re.compile(r"\?[A-Za-z_]+=.*$", re.DOTALL)
_STORE = re.compile(r"(?P<scheme>s3|gs)://((?P<user>[^/@]*)@)?(?P<bucket>[A-Za-z0-9._-]+)(?P<key>/.*)?", re.DOTALL)


def is_uri(text: str) -> bool:
    """Whether the text begins with a scheme, known or not."""
    return _SCHEME.match(text) is not None


def without_options(uri: str) -> str:
    """A URI without its query."""
    return _QUERY.sub("", uri)


def local_path(uri: str) -> Path:
    """The path that a `file://` URI names."""
    path = uri.removeprefix("file://")
    if not path.startswith("/"):
        raise InputError(f"{uri}: a file:// URI has three slashes and an absolute path")
    return Path(unquote(path))


def open_store(uri: str) -> tuple[str, str, Any]:
    """An `s3://` or `gs://` URI as its name without secrets, and its path in the file system that pyarrow has for it.

    What stands before the query is taken as it is, with no escapes, as the stores' own tools do.

    Raises:
        InputError: another scheme, or a URI that is malformed or has options that pyarrow does not know.
        WorkFailedError: the store is out of reach (it is asked only for S3's region where the URI does not tell it).
    """
    query = _QUERY.search(uri)
    options = query[0] if query else ""
    place = _STORE.fullmatch(uri.removesuffix(options))
    if place is None:
        # Not the URI itself: a secret may stand in it.
        scheme = uri.partition("://")[0]
        if scheme not in ("s3", "gs"):
            raise InputError(f"{scheme}:// is not known; s3://, gs:// and file:// are")
        raise InputError(f"not of the form {scheme}://BUCKET/NAME (a slash in a secret is written %2F)")
    scheme, user, bucket = place["scheme"], place["user"], place["bucket"]
    if scheme == "gs" and _GCS_RETRY not in options:
        options = f"{options or '?'}{'&' if options else ''}{_GCS_RETRY}={_GCS_RETRY_SECONDS}"
    key = (place["key"] or "").rstrip("/")
    name = f"{scheme}://{bucket}{key}"
    with told(name):
        try:
            filesystem, _ = pafs.FileSystem.from_uri(f"{scheme}://{user + '@' if user else ''}{bucket}{options}")
        except pa.ArrowInvalid as error:
            # pyarrow shows the whole URI, with any secret in it, where it cannot be parsed.
            reason = "its credentials or options are malformed" if "Cannot parse URI" in str(error) else error
            raise InputError(f"{name}: {reason}") from None
    return name, bucket + key, filesystem
