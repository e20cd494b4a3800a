"""The one exception tree. Each class carries its error code, HTTP status and exit code: this file is the whole map."""

from __future__ import annotations

import re
from typing import ClassVar


class UnderstudyError(Exception):
    """A foreseeable fault, told in one line that says what is wrong and what to do."""

    code: ClassVar[str] = "failed"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1


class WorkFailedError(UnderstudyError):
    """The arguments and the input were right and the work still failed."""


class DivergedError(WorkFailedError):
    """A training run left the finite numbers: these settings will not do, others may."""


class InputError(UnderstudyError):
    """The arguments or the input are wrong; trying again unchanged cannot help."""

    code = "invalid"
    status = 422
    exit_code = 2


class ChangedInputError(InputError):
    """An input is no longer what it was when it was begun."""


class MalformedError(InputError):
    """A request body that cannot be parsed at all."""

    code = "malformed"
    status = 400


class NotFoundError(InputError):
    """A route or a model that is not there."""

    code = "not_found"
    status = 404


class TooLargeError(InputError):
    """A body, a text or a batch over its limit."""

    code = "too_large"
    status = 413


class TextError(InputError):
    """One text that cannot be classified: empty, not a string, too long to be read, or not encodable."""

    code = "invalid_text"


class UnauthorizedError(UnderstudyError):
    """No key was given, or one that is not known."""

    code = "unauthorized"
    status = 401


class ForbiddenError(UnderstudyError):
    """The key that was given does not open this."""

    code = "forbidden"
    status = 403


class OverloadedError(UnderstudyError):
    """The queue is full; the same request may be admitted later.

    Attributes:
        retry_after: whole seconds after which it may be.
    """

    code = "overloaded"
    status = 429

    def __init__(self, message: str, retry_after: int = 1):
        super().__init__(message)
        self.retry_after = retry_after


class NotReadyError(UnderstudyError):
    """The server is starting or stopping, or its worker is gone."""

    code = "not_ready"
    status = 503


class DeadlineError(UnderstudyError):
    """The request's time was up before its turn came."""

    code = "deadline"
    status = 504


class CallerGoneError(UnderstudyError):
    """The caller hung up before the answer; nobody reads this one, but the request is counted under its status."""

    code = "caller_gone"
    status = 499


def first_line(error: BaseException) -> str:
    """What an error of a library says, as it may stand in a one-line message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# PyTorch's, on a GPU and elsewhere, cuBLAS's and ONNX Runtime's. None has a class of its own that stands for all, and
# to look for theirs would load them.
_SHORTAGES = re.compile(
    "out of memory|(can't|cannot|failed to) allocate memory|not enough memory|ALLOC_FAILED|bad_alloc", re.I
)
_SIZES = re.compile(r"tried to allocate [\d.]+ \w+(\. GPU \d+ has [^.]*\.\d+ \w+ of which [\d.]+ \w+ is free)?", re.I)


def memory_shortage(error: BaseException) -> str | None:
    """What an error says of memory that ran out, where that is what it is of; None where it is not."""
    if isinstance(error, MemoryError):
        return "out of memory"
    if not _SHORTAGES.search(str(error)):
        return None
    sizes = _SIZES.search(str(error))
    told = sizes[0].replace("Tried", "tried") if sizes else first_line(error)
    return f"out of memory ({told}): a smaller batch, or a lower length limit, takes less"


def shown(value: object, limit: int = 60) -> str:
    """A value of the user's as it may stand in a one-line message: no line breaks or controls, not too long."""
    text = "".join(character if character.isprintable() else " " for character in str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"
