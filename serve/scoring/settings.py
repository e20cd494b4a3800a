"""What a scoring run is asked for: what decides about its output's bytes, and what does not."""

from __future__ import annotations

from dataclasses import dataclass

from common.devices import check_device
from common.errors import InputError
from common.examples import BY_USUAL_NAMES, Columns

# `ray` runs the ONNX model in actors of a Ray cluster.
ENGINES = ("onnx", "torch", "ray")
PROGRESS = ("bar", "json", "none")


@dataclass(frozen=True)
class ScoreSettings:
    """
    Attributes:
        columns: which columns hold text, pair and label.
        all_scores: whether `scores` is added, a JSON object from label to score.
        prefix: of the added columns' names.
        metric: the one printed first, where there is a label column.
        truncate: whether a text over the token limit is cut (and reported), or is an error.
        format: of the files in an output directory, as an ending: 'jsonl', 'csv.gz', 'parquet'; the input's by default.
        rows_per_file: at most so many rows a file, of a directory; None writes one file.
        max_errors: rows without an answer after which the run stops; None goes on whatever comes.
        engine: one of `ENGINES`.
        device, threads: as in `Engine.load`.
        address: of the Ray cluster; None joins the one that is there, or starts one on this machine.
        progress: one of `PROGRESS`.
        overwrite: whether an output that is there is replaced, and another run's journal discarded.

    Raises:
        InputError: a value that will not do.
    """

    columns: Columns = BY_USUAL_NAMES
    all_scores: bool = False
    prefix: str = ""
    metric: str | None = None
    truncate: bool = True
    format: str | None = None
    rows_per_file: int | None = None
    max_errors: int | None = None
    engine: str = "onnx"
    device: str = "auto"
    threads: int = 0
    address: str | None = None
    progress: str = "bar"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError(f"engine must be one of {', '.join(ENGINES)}, not '{self.engine}'")
        if self.progress not in PROGRESS:
            raise InputError(f"progress must be one of {', '.join(PROGRESS)}, not '{self.progress}'")
        check_device(self.device)
        if self.rows_per_file is not None and self.rows_per_file < 1:
            raise InputError(f"rows per file must be 1 or more, not {self.rows_per_file}")
        if self.max_errors is not None and self.max_errors < 0:
            raise InputError(f"max errors must be 0 or more, not {self.max_errors}")
        if self.format is not None and self.rows_per_file is None:
            raise InputError("--format is of --rows-per-file's directory; a single file's name says its own")
        if self.address is not None and self.engine != "ray":
            raise InputError("--address is a Ray cluster's: pass --engine ray")
