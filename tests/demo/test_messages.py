"""The shipped messages are what their card says."""

from collections import Counter

import pytest

from common.examples import BY_USUAL_NAMES, read_examples
from demo.messages import DATA, DEV, TRAIN


@pytest.mark.parametrize(("path", "rows"), [(TRAIN, 2112), (DEV, 352)])
def test_each_intent_has_its_share_of_messages_of_2_to_60_words(path, rows: int) -> None:  # type: ignore[no-untyped-def]
    examples = read_examples(str(path), BY_USUAL_NAMES)
    assert len(examples) == rows
    assert set(Counter(examples.labels).values()) == {rows // 16}
    lengths = [len(str(text).split()) for text in examples.texts]
    assert (min(lengths), max(lengths) <= 60) == (2, True)


def test_no_message_stands_twice() -> None:
    train, dev = (read_examples(str(path), BY_USUAL_NAMES) for path in (TRAIN, DEV))
    folded = [" ".join(str(text).lower().split()) for text in (*train.texts, *dev.texts)]
    assert len(set(folded)) == len(folded)


def test_the_card_names_every_intent_and_the_counts() -> None:
    card = (DATA / "README.md").read_text(encoding="utf-8")
    for label in set(read_examples(str(TRAIN), BY_USUAL_NAMES).labels):
        assert f"| {label} |" in card
    assert "2,112" in card
    assert "352" in card
