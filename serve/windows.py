"""Windows of texts through an engine's lanes: while one is run, the next is read and tokenized."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from common.batching import cut_batches
from common.errors import UnderstudyError, WorkFailedError
from common.tokenization import Encoded
from serve.codec import Prediction

if TYPE_CHECKING:
    from serve.engine import Engine

# What a text gets: an answer, or why it has none.
Answer = Prediction | UnderstudyError

Key = TypeVar("Key")
# Texts and tokens of a batch that was run.
OnBatch = Callable[[int, int], None]


@dataclass
class _Window(Generic[Key]):
    """A window whose batches are with the lanes."""

    key: Key
    answers: list[Answer | None]
    batches: list[tuple[list[int], int, Future[list[Prediction | WorkFailedError]]]]

    def collected(self, on_batch: OnBatch | None) -> list[Answer]:
        for places, tokens, batch in self.batches:
            for place, answer in zip(places, batch.result(), strict=True):
                self.answers[place] = answer
            if on_batch is not None:
                on_batch(len(places), tokens)
        return self.answers  # type: ignore[return-value]


def classify_windows(
    engine: Engine,
    windows: Iterable[tuple[Key, Sequence[Any]]],
    *,
    truncate: bool = True,
    on_batch: OnBatch | None = None,
) -> Iterator[tuple[Key, list[Answer]]]:
    """Each window's key with the answers in the order of its texts, window after window.

    A batch never holds texts of two windows; within one, batches are of like length. So answers depend on the window's
    own texts. Two windows are in memory beside the one that was given back last.

    Args:
        windows: a key, and texts as `Engine.prepare` takes them.
        truncate: as there.
        on_batch: is told of each batch that was run, in the caller's thread.
    """
    waiting: deque[_Window[Key]] = deque()
    lanes = ThreadPoolExecutor(engine.model.lanes, thread_name_prefix="lane")
    try:
        for key, texts in windows:
            waiting.append(_begun(engine, lanes, key, engine.prepare(texts, truncate=truncate)))
            if len(waiting) == 2:
                window = waiting.popleft()
                yield window.key, window.collected(on_batch)
        for window in waiting:
            yield window.key, window.collected(on_batch)
    finally:
        lanes.shutdown(cancel_futures=True)


def _begun(engine: Engine, lanes: ThreadPoolExecutor, key: Key, prepared: list[Any]) -> _Window[Key]:
    places = [place for place, entry in enumerate(prepared) if isinstance(entry, Encoded)]
    encoded: list[Encoded] = [prepared[place] for place in places]
    batches = []
    for rows in cut_batches([text.tokens for text in encoded], engine.limits):
        batch = [encoded[row] for row in rows]
        tokens = sum(text.tokens for text in batch)
        batches.append(([places[row] for row in rows], tokens, lanes.submit(engine.outcomes, batch)))
    return _Window(key, [None if isinstance(entry, Encoded) else entry for entry in prepared], batches)
