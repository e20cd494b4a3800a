"""What a training run ends with: the model and its record, which appear together and whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from common.errors import WorkFailedError, first_line
from common.files import staged_directory
from distill.checkpoint import Checkpoint
from distill.models import save_model
from distill.processes import launched
from distill.record import TrainingRecord


def write_result(
    output: Path,
    model: PreTrainedModel,
    tokenizer: Any,
    max_length: int,
    record: TrainingRecord,
    checkpoint: Checkpoint,
    *,
    overwrite: bool,
) -> None:
    """Writes `output` in the Hub's layout with `distillation.json`; of several processes the first does.

    Args:
        max_length: tokens a text, which the tokenizer is to know.
        checkpoint: of the run, in whose directory the result is put together: a kill leaves nothing elsewhere.

    Raises:
        InputError: `output` may not be replaced.
        WorkFailedError: it cannot be written.
    """
    if launched().is_first:
        with staged_directory(output, overwrite=overwrite, work=checkpoint.path.parent) as staging:
            try:
                save_model(model, tokenizer, staging, max_length)
                record.write(staging)
            except Exception as error:
                # A full disk is no OSError to safetensors, and a plain Exception to tokenizers.
                if not isinstance(error, SafetensorError) and type(error) is not Exception:
                    raise
                raise WorkFailedError(f"{output} cannot be written ({first_line(error)}); {checkpoint}") from None
    launched().wait()
