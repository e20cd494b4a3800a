"""Text files as a stream of segments: all of the text, once an epoch, in an order that can be taken up again."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import InputError
from distill.pretraining import corpus as module
from distill.pretraining.corpus import BEGINNING, Corpus
from distill.pretraining.objective import Segment
from distill.pretraining.stream import SegmentStream, ShuffledDocuments

# A document of so many tokens; every token of a corpus is another number.
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def _numbers(line: str) -> list[int]:
    return [int(word) for word in line.split()]


def _write(directory: Path, files: list[list[int]], separator: str = "\n") -> tuple[list[Path], list[list[int]]]:
    """Files with documents of these lengths, and the documents."""
    numbers = itertools.count(1)
    paths, documents = [], []
    for index, lengths in enumerate(files):
        of_file = [list(itertools.islice(numbers, length)) for length in lengths]
        path = directory / f"{index}.txt"
        path.write_text(separator.join(" ".join(map(str, document)) for document in of_file) + "\n")
        paths.append(path)
        documents += of_file
    return paths, documents


def _stream(corpus: Corpus, rows: int, length: int, seed: int = 0, buffer: int = 30, stride: Any = None) -> Any:
    return SegmentStream(ShuffledDocuments(corpus, _numbers, seed, buffer), rows, length, stride)


def _dealt(batches: list[list[Segment]]) -> list[list[list[int]]]:
    """The segments of every document, in the order in which they were dealt, as far as `continues` joins them."""
    documents: list[list[list[int]]] = []
    for row in zip(*batches, strict=True):
        of_row: list[list[list[int]]] = []
        for segment in row:
            if segment.continues:
                of_row[-1].append(segment.ids)
            else:
                of_row.append([segment.ids])
        documents += of_row
    return documents


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    files=st.lists(LENGTHS, min_size=1, max_size=3),
    rows=st.integers(1, 5),
    length=st.integers(1, 7),
    seed=st.integers(0, 5),
    buffer=st.integers(1, 40),
    separator=st.sampled_from(["\n", "\n\n"]),
)
def test_every_token_comes_once_an_epoch_and_its_document_in_one_row(
    files: list[list[int]], rows: int, length: int, seed: int, buffer: int, separator: str, tmp_path: Path
) -> None:
    paths, documents = _write(tmp_path, files, separator)
    stream = _stream(Corpus(paths, "line" if separator == "\n" else "paragraph"), rows, length, seed, buffer)
    whole = Counter(token for document in documents for token in document)
    seen: Counter[int] = Counter()
    batches = []
    while stream.documents.epoch < 4:
        batches.append(stream.next().rows)
        seen.update(token for segment in batches[-1] for token in segment.ids)
    # All epochs' documents but the last one's are dealt; what a row holds of one comes in later batches.
    epoch = stream.documents.epoch
    rest = Counter(token for left in stream._left for token in left.tolist())
    held = Counter(token for document in stream.documents._buffer for token in document.tolist())
    for token in whole:
        assert seen[token] + rest[token] in (epoch - 1, epoch)
        assert seen[token] + rest[token] == epoch - 1 or held[token] == 0
    for dealt in _dealt(batches):
        joined = [token for segment in dealt for token in segment]
        document = next(document for document in documents if joined[0] in document)
        # The last documents may be under way still.
        assert joined == document[: len(joined)]
        assert all(len(segment) == length for segment in dealt[:-1])
        assert 1 <= len(dealt[-1]) <= length


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    lengths=LENGTHS,
    rows=st.integers(1, 4),
    length=st.integers(2, 6),
    stride=st.integers(1, 6),
    batches=st.integers(0, 20),
    packed=st.sampled_from(["", ".gz", ".zst"]),
)
def test_a_stream_taken_up_again_goes_on_as_if_nothing_had_been(
    lengths: list[int], rows: int, length: int, stride: int, batches: int, packed: str, tmp_path: Path
) -> None:
    paths, _ = _write(tmp_path, [lengths, lengths])
    if packed:
        for index, path in enumerate(paths):
            paths[index] = path.with_name(path.name + packed)
            with pa.CompressedOutputStream(str(paths[index]), "gzip" if packed == ".gz" else "zstd") as file:
                file.write(path.read_bytes())
    corpus = Corpus(paths, "line")
    stride = min(stride, length)
    stream, other = (_stream(corpus, rows, length, 3, 10, stride) for _ in range(2))
    for _ in range(batches):
        stream.next()
    # Through a file, as a checkpoint keeps it.
    torch.save(stream.state(), tmp_path / "state")
    other.load_state(torch.load(tmp_path / "state", weights_only=True))
    for _ in range(15):
        assert other.next() == stream.next()
    assert other.documents.epoch == stream.documents.epoch


@given(length=st.integers(1, 8), stride=st.integers(1, 8), tokens=st.integers(1, 40))
def test_segments_that_overlap_cover_their_document_and_end_with_it(
    length: int, stride: int, tokens: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stride = min(stride, length)
    paths, [document] = _write(tmp_path_factory.mktemp("corpus"), [[tokens]])
    stream = _stream(Corpus(paths), 1, length, stride=stride)
    segments = [stream.next().rows[0]]
    while (segment := stream.next().rows[0]).continues:
        segments.append(segment)
    starts = [segment.ids[0] - 1 for segment in segments]
    assert starts == list(range(0, stride * len(segments), stride))
    assert [segment.ids for segment in segments] == [document[start : start + length] for start in starts]
    assert segments[-1].ids[-1] == tokens
    assert all(segment.ids[-1] < tokens for segment in segments[:-1])


def test_the_last_rows_read_backwards_where_they_are_to(tmp_path: Path) -> None:
    paths, documents = _write(tmp_path, [[7] * 6])
    stream = SegmentStream(ShuffledDocuments(Corpus(paths), _numbers, 0), 4, 3, 2, backwards=2)
    dealt = _dealt([stream.next().rows for _ in range(3)])
    assert len(dealt) == 4
    for row, segments in enumerate(dealt):
        document = next(document for document in documents if segments[0][0] in document)
        read = document if row < 2 else document[::-1]
        assert segments == [read[:3], read[2:5], read[4:]]


def test_each_epoch_and_each_seed_has_an_order_of_its_own(tmp_path: Path) -> None:
    paths, documents = _write(tmp_path, [[1] * 40, [1] * 40])
    corpus = Corpus(paths)
    orders = []
    for seed in (1, 1, 2):
        shuffled = ShuffledDocuments(corpus, _numbers, seed, 20)
        orders.append([[int(shuffled.next()[0]) for _ in documents] for _ in range(2)])
    assert orders[0] == orders[1] != orders[2]
    first, second = orders[0]
    assert first != second
    assert sorted(first) == sorted(second) == [token for [token] in documents]
    # A buffer of twenty holds nothing back for long.
    assert max(abs(first.index(token) - first.index(token + 20)) for token in range(1, 20)) < 80


def test_no_file_is_held_in_memory(tmp_path: Path) -> None:
    line = "1 2 3 4 5 6 7 8 9 10\n"
    path = tmp_path / "long.txt"
    path.write_text(line * 400_000)  # 8 MB
    shuffled = ShuffledDocuments(Corpus([path]), lambda _: [1] * 10, 0, 1_000)
    tracemalloc.start()
    for _ in range(2_000):
        shuffled.next()
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "documents", "expected"),
    [
        ("1\n2\n3\n", None, [[1], [2], [3]]),
        ("\n\n1\n2\n3\n\n\n", None, [[1], [2], [3]]),
        ("1\n2\n\n3\n", None, [[1, 2], [3]]),
        ("\n1\r\n2\r\n\r\n \t\n3", None, [[1, 2], [3]]),
        ("1\n2\n\n3\n", "line", [[1], [2], [3]]),
        ("1\n2\n3\n", "paragraph", [[1, 2, 3]]),
        ("\ufeff1\n2\n", None, [[1], [2]]),
        ("1\v2\u20283\n4", None, [[1, 2, 3], [4]]),
    ],
)
def test_what_a_document_is(text: str, documents: str | None, expected: list[list[int]], tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8", newline="")
    corpus = Corpus([path], documents)
    assert [ids.tolist() for ids, _ in corpus.read(0, BEGINNING, _numbers)] == expected


def test_a_document_that_is_too_long_goes_on_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_TOKENS", 3)
    path = tmp_path / "text.txt"
    path.write_text("1 2\n3 4\n5\n\n6\n")
    corpus = Corpus([path])
    assert [ids.tolist() for ids, _ in corpus.read(0, BEGINNING, _numbers)] == [[1, 2, 3, 4], [5], [6]]


def _bad(directory: Path, kind: str) -> list[str | Path]:
    path = directory / "corpus.txt"
    match kind:
        case "empty":
            path.touch()
        case "blank":
            path.write_text("\n  \n\t\n")
        case "missing":
            pass
        case "directory":
            path.mkdir()
        case "latin":
            path.write_bytes("good\ngrün\n".encode("latin-1"))
        case "utf-16":
            path.write_bytes("text\n".encode("utf-16"))
        case "cut":
            path = path.with_suffix(".gz")
            path.write_bytes(gzip.compress(b"text " * 10_000)[:-20])
        case "none":
            return []
        case "stdin":
            return ["-"]
    return [path]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", r"corpus.txt is empty"),
        ("blank", r"corpus.txt: there is no text in the corpus"),
        ("missing", r"corpus.txt: no such file"),
        ("directory", r"corpus.txt is a directory, not a file"),
        ("latin", r"corpus.txt, line 2: not UTF-8 \(byte 0xfc at column 3\)"),
        ("utf-16", r"corpus.txt, line 1: not UTF-8 \(byte 0xff at column 1\)"),
        ("cut", r"corpus.gz, line 1: from here on the gzip data is damaged or cut short"),
        ("none", r"a corpus needs at least one file"),
        ("stdin", r"a corpus is read more than once: give files, not standard input"),
    ],
)
def test_what_is_no_corpus(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        Corpus(_bad(tmp_path, kind))


def test_other_faults_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.txt"
    path.write_text("1 2\n3 4 5 6 7\n")
    with pytest.raises(InputError, match="documents must be one of line, paragraph, not 'word'"):
        Corpus([path], "word")
    with pytest.raises(InputError, match="the tokenizer finds no token in the corpus"):
        ShuffledDocuments(Corpus([path]), lambda _: [], 0).next()
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 8)
    with pytest.raises(InputError, match=r"text.txt, line 2: the line is longer than 0 MiB: break it up"):
        Corpus([path])
