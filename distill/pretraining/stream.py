"""A corpus as an endless stream of segments, one a row: shuffled anew each epoch, and resumed exactly where it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from distill.pretraining.corpus import BEGINNING, Corpus, Encode, Ids, Place
from distill.pretraining.objective import Segment, Sequences

# Documents are drawn from a buffer that holds so many tokens or, where the last one is longer, a little more.
BUFFER_TOKENS = 2**20


class ShuffledDocuments:
    """Every document once an epoch, then all of them in another order, and so on.

    Files are read in a drawn order, and documents drawn from a buffer that is filled as they are read: documents that
    lie further apart than the buffer is long stay roughly in that order.

    Attributes:
        epoch: the one that documents are being drawn from, from 1.
    """

    def __init__(self, corpus: Corpus, encode: Encode, seed: int, buffer_tokens: int = BUFFER_TOKENS):
        """
        Args:
            encode: as `Corpus.read`.
        """
        self._corpus = corpus
        self._encode = encode
        self._limit = buffer_tokens
        self._draw = torch.Generator().manual_seed(seed)
        self.epoch = 0
        self._buffer: list[Ids] = []
        self._buffered = 0
        self._files: list[int] = []
        self._place = BEGINNING
        self._unread: Iterator[Ids] = iter(())

    def next(self) -> Ids:
        """The next document.

        Raises:
            InputError: a file cannot be read, or the tokenizer finds no token in any of them.
        """
        self._fill()
        if not self._buffer:
            self.epoch += 1
            self._files = torch.randperm(len(self._corpus.files), generator=self._draw).tolist()
            self._place = BEGINNING
            self._unread = self._read()
            self._fill()
        if not self._buffer:
            raise InputError("the tokenizer finds no token in the corpus")
        drawn = int(torch.randint(len(self._buffer), (), generator=self._draw))
        self._buffer[drawn], self._buffer[-1] = self._buffer[-1], self._buffer[drawn]
        document = self._buffer.pop()
        self._buffered -= len(document)
        return document

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "epoch": self.epoch,
            "files": list(self._files),
            "place": list(self._place),
            "buffer": _packed(self._buffer),
            "draw": self._draw.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave, of the same corpus and encoding."""
        self.epoch, self._files, self._place = state["epoch"], list(state["files"]), Place(*state["place"])
        self._buffer = _unpacked(state["buffer"])
        self._buffered = sum(map(len, self._buffer))
        self._draw.set_state(state["draw"])
        self._unread = self._read()

    def _fill(self) -> None:
        while self._buffered < self._limit:
            document = next(self._unread, None)
            if document is None:
                return
            self._buffer.append(document)
            self._buffered += len(document)

    def _read(self) -> Iterator[Ids]:
        """The documents of `_files`, from `_place` in the first of them; both follow what was read."""
        while self._files:
            for document, place in self._corpus.read(self._files[0], self._place, self._encode):
                self._place = place
                yield document
            self._files.pop(0)
            self._place = BEGINNING


class SegmentStream:
    """Documents in rows: each row goes through one document, segment by segment, and then takes the next.

    A document's last segment is as short as what is left of it; nothing is left out.
    """

    def __init__(
        self, documents: ShuffledDocuments, rows: int, length: int, stride: int | None = None, backwards: int = 0
    ):
        """
        Args:
            length: tokens of a segment.
            stride: tokens after which the next one starts; None takes `length`. With fewer, segments overlap, and a
                document ends with the first one that reaches its end.
            backwards: how many of the rows, the last ones, read their documents from the last token to the first.
        """
        self.documents = documents
        self._length = length
        self._stride = length if stride is None else stride
        self._forwards = rows - backwards
        self._left: list[Ids] = [np.empty(0, np.int32)] * rows

    def next(self) -> Sequences:
        """The next segment of each row.

        Raises:
            InputError: as `ShuffledDocuments.next`.
        """
        return Sequences([self._segment(row) for row in range(len(self._left))])

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"documents": self.documents.state(), "rows": _packed(self._left)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.documents.load_state(state["documents"])
        self._left = _unpacked(state["rows"])

    def _segment(self, row: int) -> Segment:
        left = self._left[row]
        continues = len(left) > 0
        if not continues:
            left = self.documents.next()[:: 1 if row < self._forwards else -1]
        self._left[row] = left[self._stride :] if len(left) > self._length else left[:0]
        return Segment(left[: self._length].tolist(), continues)


def _packed(arrays: Sequence[Ids]) -> dict[str, Tensor]:
    """Arrays as one, and their lengths: a checkpoint of many small tensors is slow."""
    whole = np.concatenate([np.empty(0, np.int32), *arrays])
    return {"ids": torch.from_numpy(whole), "lengths": torch.tensor([len(array) for array in arrays])}


def _unpacked(packed: dict[str, Tensor]) -> list[Ids]:
    ends = np.cumsum(packed["lengths"].numpy(), dtype=np.int64)[:-1]
    return np.split(packed["ids"].numpy(), ends) if len(packed["lengths"]) else []
