"""Inputs stand for the files that a shell or Spark would read, in one order, here and in a store."""

import glob
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.location import Location
from common.storage import expand
from tests.s3 import Bucket

FILES = [
    "a.csv",
    "b.jsonl.gz",
    "b.parquet",
    ".hidden.csv",
    "_SUCCESS.csv",
    "day=1/x.csv",
    "day=1/y.csv",
    "day=2/deep/z.csv",
    "day=2/_temporary/z.csv",
    ".cache/z.csv",
    "e[1].csv",
    "f*.csv",
]

# How a test names a path below its directory, and what comes back for a name of the same kind.
Named = tuple[Callable[[str], str], Callable[[list[Location]], list[str]]]


@pytest.fixture(params=["here", "store"])
def named(request: pytest.FixtureRequest, tmp_path: Path) -> Named:
    """The files above, once on this machine and once in a bucket."""
    if request.param == "here":
        for name in FILES:
            Location.parse(tmp_path).child(name).write_bytes(b"text\na\n")
        return lambda name: str(tmp_path / name), lambda found: [os.path.relpath(str(file), tmp_path) for file in found]
    s3: Bucket = request.getfixturevalue("s3")
    for name in FILES:
        s3.put(name, b"text\na\n")
    return s3.uri, lambda found: [str(file).removeprefix(s3.shown("")) for file in found]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["b.parquet", "a.csv"], ["b.parquet", "a.csv"]),
        ([".hidden.csv", "_SUCCESS.csv"], [".hidden.csv", "_SUCCESS.csv"]),
        ([""], ["a.csv", "b.jsonl.gz", "b.parquet", "day=1/x.csv", "day=1/y.csv", "day=2/deep/z.csv", "e[1].csv",
                "f*.csv"]),
        (["day=2"], ["day=2/deep/z.csv"]),
        (["day=2/_temporary"], ["day=2/_temporary/z.csv"]),
        (["day=2", "a.csv"], ["day=2/deep/z.csv", "a.csv"]),
        (["b.*"], ["b.jsonl.gz", "b.parquet"]),
        (["*.csv"], ["_SUCCESS.csv", "a.csv", "e[1].csv", "f*.csv"]),
        ([".*.csv"], [".hidden.csv"]),
        (["[ab].csv"], ["a.csv"]),
        (["day=*/*.csv"], ["day=1/x.csv", "day=1/y.csv"]),
        (["day=?"], ["day=1/x.csv", "day=1/y.csv", "day=2/deep/z.csv"]),
        (["*/deep/z.csv"], ["day=2/deep/z.csv"]),
        (["day=1/**/y.csv"], ["day=1/y.csv"]),
        (["**/z.csv"], ["day=2/_temporary/z.csv", "day=2/deep/z.csv"]),
        (["day=2/**"], ["day=2/_temporary/z.csv", "day=2/deep/z.csv"]),
        (["e[1].csv", "f*.csv"], ["e[1].csv", "f*.csv"]),
    ],
)  # fmt: skip
def test_inputs_stand_for_files_in_order(named: Named, inputs: list[str], expected: list[str]) -> None:
    name, shown = named
    assert shown(expand([name(text) for text in inputs])) == expected


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["none.csv"], "none.csv: no such file"),
        (["none-*.csv"], "none-*.csv: no file matches"),
        (["none/*.csv"], "none/*.csv: no file matches"),
        (["none/**/*.csv"], "no file matches"),
        (["a.csv", "a.csv"], "a.csv is the same file as"),
        (["a.csv", "*.csv"], "a.csv is the same file as"),
        (["day=2", "day=2/deep"], "day=2/deep/z.csv is the same file as"),
        (["a.csv", "-"], "cannot stand among other inputs"),
    ],
)
def test_inputs_that_stand_for_nothing_or_twice_for_one_are_refused(
    named: Named, inputs: list[str], message: str
) -> None:
    with pytest.raises(InputError) as raised:
        expand([text if text == "-" else named[0](text) for text in inputs])
    assert message in str(raised.value)
    assert "endpoint" not in str(raised.value)


@settings(deadline=None, max_examples=200)
@given(
    parts=st.lists(st.sampled_from(["*", "**", "day=*", "day=1", "*.csv", "?.csv", "[a-y].csv", "deep", "z.csv"]),
                   min_size=1, max_size=3),
)  # fmt: skip
def test_globs_match_what_pythons_glob_matches(globbed: Path, parts: list[str]) -> None:
    if not set("*?[") & set("".join(parts)):
        parts.append("*")
    pattern = str(globbed.joinpath(*parts))
    # A directory that a glob ends in stands for its tables, which Python's does not know; nor is a.csv/ a file here.
    names = [name for name in glob.glob(pattern, recursive=True) if not name.endswith("/")]
    files = [Path(name) for name in names if os.path.isfile(name)]
    directories = parts[-1] != "**" and any(map(os.path.isdir, names))
    try:
        found = [Path(str(location)) for location in expand([pattern])]
    except InputError:
        found = []
    assert found == sorted(found, key=str)
    if directories:
        assert set(found) >= set(files)
    else:
        assert found == sorted(set(files), key=str)


@pytest.fixture(scope="module")
def globbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("globbed")
    for name in FILES:
        Location.parse(directory).child(name).write_bytes(b"text\na\n")
    return directory


def test_a_relative_name_stays_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Location.parse("data/a.csv").write_bytes(b"x")
    for text in ("data", "data/*", "*/a.csv", "**/*.csv", "./data"):
        assert [str(file) for file in expand([text])] == ["data/a.csv"]


def test_standard_input_stands_alone() -> None:
    (location,) = expand(["-"])
    assert location.is_stdin
    with pytest.raises(InputError, match="cannot stand among other inputs"):
        expand(["-", "-"])


def test_a_file_that_is_no_table_is_named_not_left_out(tmp_path: Path) -> None:
    Location.parse(tmp_path).child("a.csv").write_bytes(b"x")
    Location.parse(tmp_path).child("sub/readme.md").write_bytes(b"x")
    for text in (tmp_path, tmp_path / "*", tmp_path / "sub/readme.md"):
        with pytest.raises(InputError, match=r"sub/readme\.md: unknown table format"):
            expand([text])


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/a.csv").write_text("x")
    with pytest.raises(InputError, match="holds no tables"):
        expand([tmp_path])


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    Location.parse(tmp_path).child("there/a.csv").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link").symlink_to(tmp_path / "there")
    assert [str(file) for file in expand([tmp_path / "data"])] == [str(tmp_path / "data/link/a.csv")]
    with pytest.raises(InputError, match="the same file as"):
        expand([tmp_path / "data", tmp_path / "there"])
    (tmp_path / "there/up").symlink_to(tmp_path / "data")
    with pytest.raises(InputError, match="links to a directory above itself"):
        expand([tmp_path / "data"])


def test_a_store_with_directories_made_by_hand_has_no_files_of_their_names(s3: Bucket) -> None:
    s3.filesystem.create_dir(f"{s3.name}/data/empty")
    s3.put("data/a.csv", b"x")
    assert [str(file) for file in expand([s3.uri("data")])] == [s3.shown("data/a.csv")]
    with pytest.raises(InputError, match="holds no tables"):
        expand([s3.uri("data/empty")])
