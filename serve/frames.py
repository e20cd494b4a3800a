"""What the HTTP process and the model process send each other: a JSON head and raw numbers, with both their lengths."""

from __future__ import annotations

import socket
import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import orjson

from common.tokenization import Encoded

_LENGTHS = struct.Struct("<II")


class Frame(NamedTuple):
    """One message.

    Attributes:
        head: what it is.
        body: numbers as bytes, whose meaning the head tells.
    """

    head: dict[str, Any]
    body: bytes


def to_bytes(head: dict[str, Any], body: bytes = b"") -> bytes:
    """The message as it is sent."""
    encoded = orjson.dumps(head)
    return b"".join((_LENGTHS.pack(len(encoded), len(body)), encoded, body))


class FrameReader:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The messages that `data` completes."""
        self._buffer += data
        while len(self._buffer) >= _LENGTHS.size:
            head, body = _LENGTHS.unpack_from(self._buffer)
            start, end = _LENGTHS.size + head, _LENGTHS.size + head + body
            if len(self._buffer) < end:
                return
            frame = Frame(orjson.loads(self._buffer[_LENGTHS.size : start]), bytes(self._buffer[start:end]))
            del self._buffer[:end]
            yield frame


def receive(connection: socket.socket) -> Iterator[Frame]:
    """Messages as they arrive, until the other side is gone."""
    reader = FrameReader()
    while data := connection.recv(1 << 20):
        yield from reader.feed(data)


def pack_texts(batch: Sequence[Encoded]) -> tuple[list[int], bytes]:
    """The texts' lengths, and their ids and type ids one after the other as int32."""
    ids = array("i", chain.from_iterable(text.ids for text in batch))
    ids.extend(chain.from_iterable(text.type_ids for text in batch))
    return [text.tokens for text in batch], ids.tobytes()


def unpack_texts(lengths: Sequence[int], body: bytes) -> list[Encoded]:
    """What `pack_texts` packed; whether a text was truncated is not told."""
    values = np.frombuffer(body, np.int32).tolist()
    half = len(values) // 2
    texts, start = [], 0
    for length in lengths:
        end = start + length
        texts.append(Encoded(values[start:end], values[half + start : half + end], truncated=False))
        start = end
    return texts
