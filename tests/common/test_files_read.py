"""Files that are read: hashes, what cannot be read, and JSON as other readers have it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError, UnderstudyError
from common.files import read_json, require_file, sha256, write_json


def test_sha256_is_hashlibs(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_require_file_refuses_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = tmp_path / "good"
    good.write_text("x")
    (tmp_path / "empty").write_text("")
    assert require_file(good) == good
    for path, reason in ((tmp_path / "none", "no such file"), (tmp_path, "directory"), (tmp_path / "empty", "empty")):
        with pytest.raises(InputError, match=reason):
            require_file(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="permission denied"):
        require_file(good)


@pytest.mark.parametrize(
    "content",
    [b"{", b"text", b"{'a': 1}", b'{"a": "caf\xe9"}', '{"a": 1}'.encode("utf-16"), b"[1]", b'"a"', b"null", b"3",
     b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
    ids=["open", "text", "python", "latin-1", "utf-16", "list", "string", "null", "number", "deep", "long number"],
)  # fmt: skip
def test_read_json_refuses_what_is_no_object(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json") as raised:
        read_json(tmp_path / "config.json")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(value=st.dictionaries(TEXT, VALUES, max_size=4))
def test_json_written_is_json_read(folder: Path, value: dict[str, Any]) -> None:
    path = folder / "a.json"
    write_json(path, value)
    assert read_json(path) == value
    assert list(read_json(path)) == list(value)
    assert orjson.loads(path.read_bytes()) == json.loads(json.dumps(value))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_has_not_is_never_written_bare(tmp_path: Path, number: float) -> None:
    """`NaN` in a record (a diverged run's loss) makes the file unreadable to every strict parser."""
    path = tmp_path / "a.json"
    try:
        write_json(path, {"loss": [1.0, number]})
    except (ValueError, UnderstudyError):
        assert not path.exists()
    else:
        assert orjson.loads(path.read_bytes())["loss"][0] == 1.0
