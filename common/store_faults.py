"""What goes wrong with a remote store, as one line each."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from common.errors import InputError, UnderstudyError, WorkFailedError, first_line, shown

_STORES = re.compile(r"AWS Error |google::cloud::Status")
_NO_BUCKET = re.compile(r"NO_SUCH_BUCKET|bucket does not exist", re.IGNORECASE)
_DENIED = re.compile(
    r"ACCESS_DENIED|ACCESS_KEY|SIGNATURE|_TOKEN|MISSING_AUTHENTICATION|OPT_IN_REQUIRED|PERMISSION_DENIED|UNAUTHENTICATED"
)
_OUT_OF_REACH = re.compile(r"NETWORK_CONNECTION|CURL error|curlCode|UNAVAILABLE|TIMEOUT|SLOW_DOWN|THROTTLING")
# Behind it stand numbers that help nobody but the store's makers.
_TAIL = re.compile(r" \(Request ID: [^)]*\)| error_info=.*")


def is_store_fault(error: BaseException) -> bool:
    """Whether an error of pyarrow's came from a store, not from what is in the file."""
    return _STORES.search(str(error)) is not None


def store_fault(name: str, error: BaseException) -> UnderstudyError:
    """An `InputError` for what trying again cannot help, else a `WorkFailedError`."""
    text = _TAIL.sub("", first_line(error))
    reason = shown(text[max(text.find("AWS Error "), text.find("CURL error "), 0) :], 300)
    if isinstance(error, FileNotFoundError):
        return InputError(f"{name}: no such file")
    if _NO_BUCKET.search(text):
        return InputError(f"{name}: there is no such bucket")
    if "access token" in text:
        return WorkFailedError(f"{name}: no access token can be had (are there credentials, and a network?): {reason}")
    if _OUT_OF_REACH.search(text):
        return WorkFailedError(f"{name}: the store is out of reach: {reason}")
    if _DENIED.search(text):
        return InputError(f"{name}: the store refuses these credentials, or there are none: {reason}")
    if isinstance(error, pa.ArrowInvalid):
        return InputError(f"{name}: {reason}")
    return WorkFailedError(f"{name}: {reason}")


@contextlib.contextmanager
def told(name: str) -> Iterator[None]:
    """Turns pyarrow's errors into those of `store_fault`."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise store_fault(name, error) from None


class TellingWriter(io.RawIOBase):
    """A pyarrow output stream whose faults are told as the store's."""

    def __init__(self, stream: Any, name: str):
        self._stream, self._name = stream, name

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._stream.tell())

    def write(self, data: Any) -> int:
        with told(self._name):
            self._stream.write(data)
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Nothing is held back here, and pyarrow sends parts as it sees fit."""
