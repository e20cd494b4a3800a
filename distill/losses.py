"""The losses of Patient Knowledge Distillation (Sun et al., EMNLP 2019, arXiv 1908.09355), and TinyBERT's of states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from common.labels import MULTI_LABEL, REGRESSION


def hard_loss(logits: Tensor, targets: Tensor, problem_type: str, labelled: Sequence[int] | None = None) -> Tensor:
    """L_CE: the loss with the labels themselves.

    Args:
        logits: `[batch, labels]`.
        targets: int64 `[rows]`, float `[rows, labels]` for several labels, float `[rows]` for a number.
        labelled: places in the batch of the rows that have these targets; None for all.

    Returns:
        Cross-entropy for one label, per-label sigmoid cross-entropy for several, squared error for a number; the mean
        over the batch, to which a row without a label adds 0: a label weighs the same whatever the batch it falls into.
    """
    if labelled is not None and len(labelled) < len(logits):
        if not labelled:
            return logits.new_zeros((), dtype=torch.float32)
        return hard_loss(logits[labelled], targets, problem_type) * (len(labelled) / len(logits))
    logits = logits.float()
    if problem_type == REGRESSION:
        return functional.mse_loss(logits[:, 0], targets)
    if problem_type == MULTI_LABEL:
        return functional.binary_cross_entropy_with_logits(logits, targets)
    return functional.cross_entropy(logits, targets)


def soft_loss(student: Tensor, teacher: Tensor, temperature: float, problem_type: str) -> Tensor:
    """L_DS, eq. 4: the cross-entropy of the student's softened answer with the teacher's.

    The mean over the batch, times T² as in the authors' code (the paper's formula has no such factor): the gradient
    then keeps its size whatever T is, which is what their grid of α was tuned with.

    Args:
        student: logits `[batch, labels]`.
        teacher: logits `[batch, labels]`.

    Returns:
        For one label softmax cross-entropy at temperature T; for several the same with a sigmoid per label, the mean
        over labels; for a number the squared error to the teacher's output, with no temperature.
    """
    student, teacher = student.float(), teacher.float()
    if problem_type == REGRESSION:
        return functional.mse_loss(student, teacher)
    if problem_type == MULTI_LABEL:
        target = torch.sigmoid(teacher / temperature)
        return functional.binary_cross_entropy_with_logits(student / temperature, target) * temperature**2
    target = torch.softmax(teacher / temperature, dim=-1)
    return -(target * torch.log_softmax(student / temperature, dim=-1)).sum(dim=-1).mean() * temperature**2


def patience_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L_PT, eq. 7: the squared distance between unit vectors at the head's position, layer by layer.

    The mean over batch, layers and width, as in the authors' code, so that the paper's grid of β (10 to 1000) applies:
    eq. 7's sum is this mean times batch · layers · width. Always computed in float32.

    Args:
        student: states `[batch, layers, width]` of the student's layers 1..k-1.
        teacher: states `[batch, layers, width]` of the layers that the map names.
    """
    return functional.mse_loss(
        functional.normalize(student.float(), dim=-1), functional.normalize(teacher.float(), dim=-1)
    )


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """L_hidn of TinyBERT (Jiao et al., Findings of EMNLP 2020, arXiv 1909.10351), eq. 8: MSE(H_S·W_h, H_T).

    The mean over all non-padding tokens of the batch, over layers and width:
    Σ_t Σ_j ‖h_s[t,j] − h_t[t,g(j)]‖² / (tokens · layers · width). TinyBERT's map g is skip's, with the last layer.

    Args:
        student: states `[batch, layers, length, width]`, already in the teacher's width.
        teacher: states of the same shape, of the layers that the map names.
        mask: `[batch, length]`, 1 for a token and 0 for padding.
    """
    distance = (student.float() - teacher.float()).square().mean(dim=(1, 3))
    return (distance * mask).sum() / mask.sum()
