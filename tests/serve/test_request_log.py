"""Request ids and the access log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from common.errors import InputError
from serve.request_log import open_access_log
from tests.serve_app import app_of


def test_each_request_has_an_id_and_a_line_without_its_text(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    with TestClient(app_of(bundle, access_log=path)) as client:
        answers = [
            client.post("/v1/classify", json={"inputs": ["a secret parcel", "", "secret " * 300]}),
            client.post("/v1/classify", json={}, headers={"X-Request-ID": "from-before"}),
            client.get("/health/live", headers={"X-Request-ID": "bad id\x7f"}),
            client.get("/nowhere/secret"),
        ]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert [line["request_id"] for line in lines] == ids
    assert len(set(ids)) == 4
    assert ids[1] == "from-before"
    assert "bad" not in ids[2]
    assert [line["status"] for line in lines] == [200, 422, 200, 404]
    assert [line["route"] for line in lines] == ["/v1/classify", "/v1/classify", "/health/live", "unknown"]
    assert {name: lines[0][name] for name in ("model", "texts", "truncated", "method")} == {
        "model": "bundle", "texts": 3, "truncated": 1, "method": "POST",
    }  # fmt: skip
    assert lines[0]["bytes"] == len(answers[0].content)
    assert "secret" not in path.read_text()


def test_a_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        open_access_log(tmp_path)


def test_a_full_disk_fails_no_request(bundle: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with TestClient(app_of(bundle, access_log=full)) as client:
        for _ in range(3):
            assert client.post("/v1/classify", json={"inputs": ["a"]}).status_code == 200
