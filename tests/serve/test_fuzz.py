"""Odd requests in great number: none hangs, none is answered with a fault of the server's own.

A few thousand here; `make soak` sends a hundred thousand.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from tests.serve_process import ServerProcess

REQUESTS = 100_000 if os.environ.get("UNDERSTUDY_SOAK") else 3_000
CONNECTIONS = 8
# Longer than any answer may take under this load.
SECONDS = 30
EXPECTED = {200, 307, 400, 401, 403, 404, 405, 413, 422, 429, 503, 504}
KEY = "key-of-a-caller-0001"

PATHS = [
    *("/v1/classify", "/predict", "/v2/models/bundle/infer", "/v2/models/teacher/infer", "/v2/repository/index"),
    *("/v2/repository/models/bundle/load", "/v1/model", "/v1/models", "/v1/agreement", "/v2", "/metrics", "/", "/docs"),
    *(
        "/v2/models/bundle",
        "/v2/models/a%00b/ready",
        "/v2/models/../../etc/infer",
        "/health/ready",
        "//",
        "/v1/classify/",
    ),
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 1.5, 1e308, 2**70, "", " ", "parcel", "a\0b", "\u202e\ud83d\ude00", "x" * 3000, [], {}, [[]]),
    *(
        ["a", "b"],
        [["a"], ["b", "c"]],
        {"text": "a"},
        {"text": "a", "text_pair": "b"},
        {"text": 1},
        [None],
        ["parcel"] * 30,
    ),
]
BODIES: list[dict[str, Any]] = [
    {"inputs": ["Where is my parcel?", {"text": "a", "text_pair": "b"}], "top_k": 2, "truncate": True},
    {"inputs": [["one"], ["two", "three"]], "raw_scores": True},
    {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["parcel"]}], "id": "1", "parameters": {}},
    {"parameters": {"bundle": "/etc"}},
]


def _body(rng: random.Random) -> bytes:
    """A good body with some of it replaced, or bytes of it damaged."""
    body = json.loads(json.dumps(rng.choice(BODIES)))
    for _ in range(rng.randrange(3)):
        body[rng.choice([*body, "model", "version", "escalate", "inputs", "outputs", "odd"])] = rng.choice(VALUES)
    raw = bytearray(json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass"))
    for _ in range(rng.choice([0, 0, 0, 1, 4])):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw[: rng.randrange(len(raw))] if rng.random() < 0.05 else raw)


def _request(rng: random.Random) -> bytes:
    body = _body(rng)
    method = rng.choices(["POST", "GET", "PUT", "DELETE", "OPTIONS"], [20, 4, 1, 1, 1])[0]
    head = [f"{method} {rng.choices(PATHS, [8] * 4 + [1] * (len(PATHS) - 4))[0]} HTTP/1.1", "Host: x"]
    if rng.random() < 0.95:
        head.append(f"Authorization: Bearer {KEY}")
    if rng.random() < 0.3:
        head.append(f"X-Request-ID: {rng.choice(['abc', 'a b', 'x' * 500])}")
    if rng.random() < 0.1:
        head.append("Content-Type: text/plain")
    if rng.random() < 0.1:
        chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        return "\r\n".join([*head, "Transfer-Encoding: chunked", "", ""]).encode() + chunked
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Status, and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(length)
    return status, b"connection: close" not in head


async def _talk(port: int, seed: int, seen: Counter[int]) -> None:
    rng = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(REQUESTS // CONNECTIONS):
        request = _request(rng)
        writer.write(request)
        try:
            async with asyncio.timeout(SECONDS):
                status, stays = await _answer(reader)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            raise AssertionError(f"no answer ({error!r}) to {request[:500]!r}") from None
        assert status in EXPECTED, (status, request[:500])
        seen[status] += 1
        if not stays:
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


def test_odd_requests_neither_hang_nor_break_it(student_bundle: Path, teacher_bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEY)
    options = (
        "--teacher",
        f"teacher={teacher_bundle}",
        "--escalate-below",
        "0.6",
        "--shadow",
        "0.5",
        "--keys",
        str(keys),
    )
    seen: Counter[int] = Counter()

    async def go(port: int) -> None:
        await asyncio.gather(*(_talk(port, seed, seen) for seed in range(CONNECTIONS)))

    with ServerProcess(student_bundle, *options) as server:
        asyncio.run(go(server.port))
        code, _, err = server.stop(signal.SIGTERM)
    assert (code, "Traceback" in err) == (0, False), err[-2000:]
    # It was a fair mixture: much was answered, and much refused for each of several reasons.
    assert seen[200] > REQUESTS / 20
    assert all(seen[status] for status in (400, 401, 404, 405, 422))
    print(dict(seen))
