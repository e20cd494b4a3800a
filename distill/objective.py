"""The loss of a student: labels, the teacher's answers, states and relations, its own n-grams, weighed and summed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from common.labels import Task
from distill.live_teacher import LiveTeacher
from distill.losses import hard_loss, hidden_loss, patience_loss, soft_loss
from distill.models import head_position
from distill.pretraining.infoword import DeepInfoMax
from distill.processes import WHOLE, Share
from distill.projection import width_projection
from distill.relations import AttentionVectors, relation_loss
from distill.settings import DistillationSettings
from distill.teacher import TeacherTargets, head_states
from distill.training import Objective


class DistillationObjective(Objective):
    """L = (1-α)·L_CE + α·L_DS + β·L_PT + γ·L_hidn + ρ·L_relation + λ·L_DIM; what has no weight is left out.

    The first three are L_PKD (PKD, arXiv 1908.09355, eq. 8); L_hidn is TinyBERT's (`losses.hidden_loss`), L_relation
    MiniLM's or MiniLMv2's (`relations.relation_loss`), L_DIM InfoWord's -J_DIM (`pretraining.infoword.DeepInfoMax`).
    """

    def __init__(
        self,
        student: PreTrainedModel,
        task: Task,
        settings: DistillationSettings,
        answers: TeacherTargets | None,
        labelled_rows: int,
        live: LiveTeacher | None = None,
        dim: DeepInfoMax | None = None,
    ):
        """
        Args:
            answers: the teacher's, of all training rows; None for methods that do not ask it.
            labelled_rows: how many of the training rows, the first ones, have a label; the others have no L_CE.
            live: the teacher itself, for the losses over all tokens; None where these have no weight.
            dim: of the student; None where it has no weight. Its n-grams are drawn from torch's own generator.
        """
        super().__init__()
        self.task = task
        self.settings = settings
        self.answers = answers
        self.labelled_rows = labelled_rows
        self.live = live
        self.dim = dim
        self.position = head_position(student.config)
        self.patience = settings.patience_weight if answers is not None and answers.states.shape[1] else 0.0
        self.needs_states = bool(self.patience) or live is not None
        width = teacher_width = student.config.hidden_size
        if answers is not None and self.patience:
            teacher_width = answers.states.shape[2]
        if live is not None and live.layers:
            teacher_width = live.width
        self.to_teacher = width_projection(width, teacher_width)
        if settings.relation_weight:
            self.vectors = AttentionVectors.of(student, settings.layers, settings.relations)

    def forward(
        self, output: Any, batch: dict[str, Tensor], rows: list[int], targets: Tensor, share: Share = WHOLE
    ) -> dict[str, Tensor]:
        """`loss`, and unweighed `hard`, `soft`, `patience`, `hidden`, `relation`, `dim`, where they have a weight."""
        settings, kind = self.settings, self.task.problem_type
        labelled = [place for place, row in enumerate(rows) if row < self.labelled_rows]
        hard = share.rows * hard_loss(output.logits, targets, kind, labelled)
        terms, loss = {"hard": hard}, (1 - settings.soft_weight) * hard
        if self.answers is not None and settings.soft_weight:
            answer = self.answers.logits[rows].to(targets.device)
            terms["soft"] = share.rows * soft_loss(output.logits, answer, settings.temperature, kind)
            loss = loss + settings.soft_weight * terms["soft"]
        if self.answers is not None and self.patience:
            # Layers 1..k-1: the embeddings' output stands before them and the last layer is left out.
            states = torch.stack([head_states(hidden, self.position) for hidden in output.hidden_states[1:-1]], dim=1)
            answer = self.answers.states[rows].to(targets.device)
            terms["patience"] = share.rows * patience_loss(self.to_teacher(states.float()), answer)
            loss = loss + self.patience * terms["patience"]
        if self.live is not None:
            mask, given = batch["attention_mask"], self.live(batch)
            if given.hidden is not None:
                states = torch.stack(output.hidden_states[1:], dim=1)
                hidden = hidden_loss(self.to_teacher(states.float()), given.hidden, mask)
                terms["hidden"] = share.tokens * hidden
                loss = loss + settings.hidden_weight * terms["hidden"]
            if given.vectors is not None:
                vectors = self.vectors(output.hidden_states)
                relation = relation_loss(vectors, given.vectors, mask, settings.relations, self.live.heads)
                terms["relation"] = share.tokens * relation
                loss = loss + settings.relation_weight * terms["relation"]
        if self.dim is not None:
            views = self.dim.views(batch["input_ids"], torch.default_generator)
            on_device = {name: view.to(loss.device) for name, view in views.items()}
            terms["dim"] = share.rows * self.dim.bound(batch, on_device).loss
            loss = loss + settings.dim_weight * terms["dim"]
        return {"loss": loss, **terms}
