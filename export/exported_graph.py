"""An exported graph, opened to be asked: logits of tokenized texts, alone or in batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.batching import BatchLimits, cut_batches
from common.devices import open_session
from common.errors import WorkFailedError, first_line
from common.progress import progress
from common.tokenization import Encoded, TextEncoder
from export.onnx_file import graph_files

BATCH_SIZE = 32


class ExportedGraph:
    """A graph with the session that runs it.

    Attributes:
        path: the ONNX file.
        device: where it runs, 'cpu' or 'cuda'.
        names: its inputs.
    """

    def __init__(self, path: Path, encoder: TextEncoder, device: str, precision: str = "fp32"):
        """
        Raises:
            InputError, WorkFailedError: as `open_session`.
        """
        self.path = path
        self._encoder = encoder
        self._session, self.device = open_session(path, device, precision=precision)
        self.names = tuple(entry.name for entry in self._session.get_inputs())

    @property
    def bytes(self) -> int:
        """Of the file, with the external data beside it."""
        return sum(file.stat().st_size for file in graph_files(self.path))

    def logits(self, batch: Sequence[Encoded]) -> NDArray[np.float32]:
        """`[batch, labels]`.

        Raises:
            WorkFailedError: the graph cannot be run on a batch of this shape, or an output is not a finite number.
        """
        padded = self._encoder.pad(batch)
        given = {name: padded[name] for name in self.names}
        try:
            logits: NDArray[np.float32] = np.asarray(self._session.run(["logits"], given)[0], np.float32)
        except Exception as error:  # the runtime's errors share no base class
            count, length = padded["input_ids"].shape
            raise WorkFailedError(
                f"the exported model cannot be run on a batch of {count} by {length} tokens: {first_line(error)}: "
                "no bundle is written"
            ) from error
        if not np.isfinite(logits).all():
            raise WorkFailedError("the exported model gives outputs that are not finite numbers: no bundle is written")
        return logits

    def all_logits(
        self, texts: Sequence[Encoded], size: int = BATCH_SIZE, doing: str | None = None
    ) -> NDArray[np.float32]:
        """Logits `[texts, labels]` in the order of the texts, run in batches of like length.

        Args:
            doing: what the progress bar says; None shows none, for use inside another.
        """
        limits = BatchLimits(items=size, tokens=size * max(text.tokens for text in texts))
        found: dict[int, NDArray[np.float32]] = {}
        bar = nullcontext(lambda _: None) if doing is None else progress(doing, len(texts), "texts")
        with bar as advance:
            for rows in cut_batches([text.tokens for text in texts], limits):
                found.update(zip(rows, self.logits([texts[row] for row in rows]), strict=True))
                advance(len(rows))
        return np.stack([found[row] for row in range(len(texts))])
