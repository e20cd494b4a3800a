"""What a classifier that is to become a bundle answers."""

from __future__ import annotations

from typing import Any

from common.labels import MULTI_LABEL, REGRESSION, Task
from common.progress import say
from distill.models import set_task


def bundle_task(config: Any, name: str) -> Task:
    """The task of a transformers config, which is told of it where it had not said.

    Args:
        name: of the model, for a remark on how it is read.

    Raises:
        InputError: the config tells of no task, or of a label that no table could hold.
    """
    task = Task.from_config(config.to_dict())
    task.check_labels()
    if task.problem_type == MULTI_LABEL and not config.problem_type:
        say(
            f"{name} has one output and no problem_type: its sigmoid is taken for a label's probability. "
            f'If it answers with a number, its config.json must say "problem_type": "{REGRESSION}"'
        )
    set_task(config, task)
    return task
