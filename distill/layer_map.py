"""Which teacher layer each student layer learns from, or starts as. Layers count from 1, as in the paper."""

from __future__ import annotations

from common.errors import InputError


def patience_layers(
    method: str, teacher_layers: int, student_layers: int, *, narrower: bool = False
) -> tuple[int, ...]:
    """I(j) for the student's layers j = 1..k-1 (PKD §3.2; the last layer is left out on both sides).

    Skip spreads the layers evenly: 12 to 6 gives 2, 4, 6, 8, 10. Last takes the ones below the top: 7, 8, 9, 10, 11.
    Where n is no multiple of k, skip rounds j·n/k to the nearest layer. Methods without patience, and k = 1, map none.

    Args:
        narrower: whether the student's width is less than its teacher's, so that it may be as deep.

    Raises:
        InputError: the student is no smaller than the teacher.
    """
    _check(teacher_layers, student_layers, narrower)
    if method in ("pkd-skip", "best"):
        return evenly_spread(teacher_layers, student_layers)[:-1]
    if method == "pkd-last":
        return tuple(range(teacher_layers - student_layers + 1, teacher_layers))
    return ()


def initial_layers(init: str, source_layers: int, student_layers: int) -> tuple[int, ...]:
    """The source layer that each of the student's k layers starts as.

    Raises:
        InputError: the source has fewer layers than the student.
    """
    if student_layers > source_layers:
        raise InputError(f"a student of {student_layers} layers cannot start from a model of {source_layers}")
    if init == "teacher-skip":
        return evenly_spread(source_layers, student_layers)
    return tuple(range(1, student_layers + 1))


def evenly_spread(teacher_layers: int, student_layers: int) -> tuple[int, ...]:
    """round(j·n/k) for j = 1..k: distinct and rising, since the step n/k is at least 1; halves round up."""
    return tuple(
        (2 * position * teacher_layers + student_layers) // (2 * student_layers)
        for position in range(1, student_layers + 1)
    )


def _check(teacher_layers: int, student_layers: int, narrower: bool) -> None:
    if student_layers >= teacher_layers + narrower:
        raise InputError(
            f"the student must have fewer layers than the teacher: asked for {student_layers}, "
            f"the teacher has {teacher_layers}"
        )
