"""Texts into token ids without holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common.errors import DeadlineError, OverloadedError, TextError
from common.tokenization import Encoded, characters_of
from serve.codec import Codec

# One or two texts are tokenized faster than a thread is reached; more would hold up the event loop.
_INLINE_CHARACTERS = 2_000
# Between two looks at the deadline.
_SLICE_CHARACTERS = 200_000


class Tokenizing:
    """A codec's first half for many callers: short texts at once, long ones on a thread, within a bound for all.

    Args:
        waiting_characters: that may wait for the thread together.
    """

    def __init__(self, waiting_characters: int):
        self._limit = waiting_characters
        self._characters = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    async def prepare(
        self, codec: Codec, texts: Sequence[Any], *, truncate: bool, deadline: float
    ) -> list[Encoded | TextError]:
        """As `Codec.prepare`.

        Args:
            deadline: by the event loop's clock.

        Raises:
            OverloadedError: too many characters wait for the tokenizer already.
            DeadlineError: the time was up.
        """
        size = sum(map(characters_of, texts))
        if size <= _INLINE_CHARACTERS:
            return codec.prepare(texts, truncate=truncate)
        if self._characters and self._characters + size > self._limit:
            raise OverloadedError("too much text waits for the tokenizer; try again later")
        loop = asyncio.get_running_loop()
        self._characters += size
        prepared: list[Encoded | TextError] = []
        try:
            async with asyncio.timeout_at(deadline):
                # Slice by slice, so that a deadline or hang-up ends it.
                for part in _slices(texts):
                    prepared += await loop.run_in_executor(
                        self._thread,
                        lambda part=part: codec.prepare(part, truncate=truncate),  # type: ignore[misc]
                    )
        except TimeoutError:
            raise DeadlineError("the time was up before the text was tokenized") from None
        finally:
            self._characters -= size
        return prepared

    def stop(self) -> None:
        """Ends the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _slices(texts: Sequence[Any]) -> Iterator[list[Any]]:
    """The texts in order, about `_SLICE_CHARACTERS` at a time."""
    part: list[Any] = []
    size = 0
    for text in texts:
        part.append(text)
        size += characters_of(text)
        if size >= _SLICE_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part
