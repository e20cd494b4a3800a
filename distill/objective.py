"""The loss of a student: the labels, the teacher's answers and its states, weighed and summed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.labels import Task
from distill.losses import hard_loss, patience_loss, soft_loss
from distill.models import head_position
from distill.settings import DistillationSettings
from distill.teacher import TeacherTargets, head_states
from distill.training import Objective


def pkd_objective(
    student: PreTrainedModel,
    task: Task,
    settings: DistillationSettings,
    answers: TeacherTargets | None,
    labelled_rows: int,
) -> Objective:
    """L_PKD = (1-α)·L_CE + α·L_DS + β·L_PT (eq. 8); methods without a term leave it out.

    Args:
        answers: the teacher's, of all training rows; None for methods that do not ask it.
        labelled_rows: how many of the training rows, the first ones, have a label; the others have no L_CE.
    """
    alpha, beta = settings.soft_weight, settings.patience_weight
    position = head_position(student.config)

    def objective(output: Any, rows: list[int], targets: Tensor) -> dict[str, Tensor]:
        labelled = [place for place, row in enumerate(rows) if row < labelled_rows]
        hard = hard_loss(output.logits, targets, task.problem_type, labelled)
        terms, loss = {"hard": hard}, (1 - alpha) * hard
        if answers is not None and alpha:
            given = answers.logits[rows].to(targets.device)
            terms["soft"] = soft_loss(output.logits, given, settings.temperature, task.problem_type)
            loss = loss + alpha * terms["soft"]
        if answers is not None and beta and answers.states.shape[1]:
            # Layers 1..k-1: the embeddings' output stands before them and the last layer is left out.
            own = [head_states(hidden, position) for hidden in output.hidden_states[1:-1]]
            terms["patience"] = patience_loss(torch.stack(own, dim=1), answers.states[rows].to(targets.device))
            loss = loss + beta * terms["patience"]
        return {"loss": loss, **terms}

    return objective
