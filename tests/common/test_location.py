"""Places on this machine: named as the user named them, written whole or not at all."""

import io
import os
import pickle
import stat
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from common.errors import InputError
from common.location import Location


def test_local_paths_and_uris_are_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a b%.csv"
    for text in (path, str(path), path.as_uri()):
        location = Location.parse(text)
        assert (location.name, location.path, location.local) == (str(path), str(path), path)
        assert isinstance(location.filesystem, pafs.LocalFileSystem)
        assert not location.is_stdin
    assert str(Location.parse("data/../a.csv")) == "data/../a.csv"
    assert Location.parse("./-").local == Path("-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://host/a.csv", "http:// is not known"),
        ("S3://bucket/a.csv", "S3:// is not known"),
        ("file://host/a.csv", "three slashes"),
        ("s3:///a.csv", "not of the form s3://BUCKET/NAME"),
        ("s3://buck*et/a.csv", "not of the form s3://BUCKET/NAME"),
        ("gs://", "not of the form gs://BUCKET/NAME"),
        ("s3://key:sec/ret@bucket/a.csv", "not of the form s3://BUCKET/NAME"),
        ("s3://key:sec ret@bucket/a.csv?region=eu-west-1", "its credentials or options are malformed"),
        ("s3://key:secret@bucket/a.csv?region=eu-west-1&colour=red", "s3://bucket/a.csv: .*'colour'"),
        ("gs://bucket/a.csv?colour=red", "gs://bucket/a.csv: .*'colour'"),
    ],
)  # fmt: skip
def test_other_uris_are_refused_and_no_secret_is_shown(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        Location.parse(text)
    assert "sec" not in str(raised.value).replace("a secret", "")


def test_store_uris_have_names_without_secrets_and_options() -> None:
    location = Location.parse("s3://key:secret@bucket/data/a b%20#.csv?region=eu-west-1")
    assert (location.name, location.path, location.local) == (
        "s3://bucket/data/a b%20#.csv",
        "bucket/data/a b%20#.csv",
        None,
    )
    assert location.filesystem.region == "eu-west-1"
    assert "secret" not in repr(location)
    assert Location.parse("s3://bucket/a?.csv?region=eu-west-1").path == "bucket/a?.csv"
    assert Location.parse("s3://bucket?region=eu-west-1").child("a/b.csv").name == "s3://bucket/a/b.csv"
    assert location.child("x").ancestor(2).path == "bucket/data"
    google = Location.parse("gs://bucket/data/")
    assert (google.name, google.path) == ("gs://bucket/data", "bucket/data")
    assert isinstance(google.filesystem, pafs.GcsFileSystem)


def test_a_location_travels_between_processes(tmp_path: Path) -> None:
    for text in (str(tmp_path), "s3://bucket/a.csv?region=eu-west-1", "-"):
        location = Location.parse(text)
        copied = pickle.loads(pickle.dumps(location))
        assert copied == location
        assert copied.filesystem == location.filesystem


def test_standard_input_is_read_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\r\n\xff")))
    location = Location.parse("-")
    assert location.is_stdin
    assert str(location) == "standard input"
    assert location.open().read() == b"a\r\n\xff"


def test_what_is_there_is_told(tmp_path: Path) -> None:
    root = Location.parse(tmp_path)
    file = root.child("a.csv")
    assert file.info() is None
    assert file.child("below a file").info() is None
    (tmp_path / "a.csv").write_bytes(b"abc")
    os.utime(tmp_path / "a.csv", ns=(0, 1_234_567_890))
    info = file.info()
    assert info is not None
    assert (info.size, info.modified_ns, info.is_directory) == (3, 1_234_567_890, False)
    directory = root.info()
    assert directory is not None
    assert directory.is_directory
    assert file.read_bytes() == b"abc"
    assert file.sha256() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for read in (root.child("none").read_bytes, root.child("none").open):
        with pytest.raises(InputError, match="none: no such file"):
            read()


def test_children_are_sorted_and_none_of_what_is_not_there(tmp_path: Path) -> None:
    root = Location.parse(tmp_path)
    for name in ("b", "a.csv", "_c", ".d"):
        root.child(name).write_bytes(b"x")
    root.child("sub/deep").make_directory()
    root.child("sub").make_directory()
    assert root.children() == [".d", "_c", "a.csv", "b", "sub"]
    assert root.child("none").children() == []
    assert root.child("b").children() == []


def test_a_link_that_leads_to_itself_is_a_file_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a.csv").touch()
    place = Location.parse(str(tmp_path))
    assert place.entries() == [("a.csv", False), ("loop", False)]
    assert place.files_below((".",)) == ["a.csv", "loop"]


def test_removing_takes_all_of_a_directory_and_nothing_behind_a_link(tmp_path: Path) -> None:
    root = Location.parse(tmp_path)
    root.child("out/deep/a.csv").write_bytes(b"x")
    root.child("kept/a.csv").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    root.child("link").remove()
    root.child("out").remove()
    root.child("out").remove()
    assert root.children() == ["kept"]
    root.child("kept/a.csv").remove()
    assert root.child("kept").children() == []


def test_an_output_appears_whole_with_the_usual_mode(tmp_path: Path) -> None:
    file = Location.parse(tmp_path).child("new/a.csv")
    with file.open_output() as stream:
        stream.write(b"abc")
        assert file.info() is None
    assert file.read_bytes() == b"abc"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new/a.csv").stat().st_mode) == 0o666 & ~mask
    with file.open_output() as stream:
        stream.write(b"d")
    assert file.read_bytes() == b"d"
    file.write_bytes(b"ef")
    assert file.read_bytes() == b"ef"
    assert file.ancestor(1).children() == ["a.csv"]


@pytest.mark.parametrize("before", [None, b"old"])
def test_an_output_that_fails_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    file = Location.parse(tmp_path).child("a.csv")
    if before is not None:
        file.write_bytes(before)
    with pytest.raises(KeyboardInterrupt), file.open_output() as stream:  # noqa: PT012
        stream.write(b"abc")
        raise KeyboardInterrupt
    assert Location.parse(tmp_path).children() == ([] if before is None else ["a.csv"])
    assert before is None or file.read_bytes() == before


def test_an_absolute_location_is_the_same_file_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\n")
    monkeypatch.chdir(tmp_path)
    relative = Location.parse("a.csv")
    absolute = pickle.loads(pickle.dumps(relative.absolute()))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert relative.info() is None
    assert absolute.read_bytes() == b"text\n"
