"""Where the messages that ship with the project lie."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
TRAIN = DATA / "train.tsv"
DEV = DATA / "dev.tsv"
