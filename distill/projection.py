"""The learned step from a narrow student's width to its teacher's, thrown away after training."""

from __future__ import annotations

import torch
from torch import nn


def width_projection(student_width: int, teacher_width: int) -> nn.Module:
    """W_h, which takes a student's states into the teacher's space (TinyBERT, arXiv 1909.10351, eq. 8; FitNets' W_r,
    Romero et al. 2015, arXiv 1412.6550, eq. 3, has the same place): `[…, student_width]` to `[…, teacher_width]`.

    One matrix serves all layers, as in TinyBERT. It starts as the identity on the student's coordinates, which are the
    first of the teacher's (`students.make_student`). Where the widths are equal there is nothing to learn, and states
    pass as they are.
    """
    if student_width == teacher_width:
        return nn.Identity()
    projection = nn.Linear(student_width, teacher_width, bias=False)
    with torch.no_grad():
        nn.init.eye_(projection.weight)
    return projection
