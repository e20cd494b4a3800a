"""What the intervals allow to say, and what they leave open, each as a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.studies.pkd.plan import DEPTHS, PUBLIC_TEACHER
from benchmarks.studies.pkd.summary import Contest, TaskSummary, contest
from distill.settings import TrainingSettings

HELD, MISSED, OPEN, WEAK = "held", "missed", "open", "weak teacher"
ONE_SEED = "one seed"


def verdict(made: Contest) -> str:
    """`better` or `worse` where the interval leaves no other choice; `one seed` where a task has just one, which tells
    nothing of how seeds vary."""
    if min(made.seeds) == 1:
        return ONE_SEED
    if made.result.difference.low > 0:
        return "better"
    return "worse" if made.result.difference.high < 0 else "undecided"


def target_verdict(task: TaskSummary, depth: int) -> str:
    """Whether the mean over all seeds of `best` reaches the target; open while seeds are missing. To keep what a weak
    teacher has is no feat."""
    if task.is_weak:
        return WEAK
    runs, kept = task.students.get((depth, "best")), task.kept(depth, "best")
    if runs is None or kept is None or set(runs.values) != set(task.plan.seeds):
        return OPEN
    return HELD if kept.mean >= task.plan.targets[depth] else MISSED


def contests_of(tasks: Sequence[TaskSummary], depth: int, first: str, second: str) -> Iterator[Contest]:
    """Each task's, and last the mean's where there are several; tasks whose teacher is weak are in no mean."""
    shared = [task for task in tasks if contest([task], depth, first, second) is not None]
    strong = [task for task in shared if not task.is_weak]
    for group in (*([task] for task in shared), strong if len(strong) > 1 else []):
        if (made := contest(group, depth, first, second)) is not None:
            yield made


def seed_counts(made: Contest) -> str:
    """`3`, or `1 to 3` where the tasks have not as many."""
    few, many = min(made.seeds), max(made.seeds)
    return str(few) if few == many else f"{few} to {many}"


def budget(training: TrainingSettings) -> str:
    """`8 epochs, 0.0001, batch 16`: epochs, learning rate and rows a batch."""
    return f"{training.epochs} epochs, {training.learning_rate:g}, batch {training.batch_size}"


def conclusions(tasks: Sequence[TaskSummary]) -> Iterator[str]:
    """One sentence for each question of the study."""
    for depth in DEPTHS:
        yield from _claim(tasks, depth)
    for depth in DEPTHS:
        yield from _start_and_losses(tasks, depth)
    verdicts = [target_verdict(task, depth) for task in tasks for depth in task.plan.targets]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in (HELD, MISSED, OPEN, WEAK))
    yield f"**Targets**: {counts}."
    name, public = PUBLIC_TEACHER
    for task in tasks:
        if task.plan.name == name and task.lead is not None:
            own = task.lead.mean
            place = "below" if own.high < public else "above" if own.low > public else "not told apart from"
            yield (
                f"**{name}'s teacher** has {own.mean:.3f} ({own.low:.3f} to {own.high:.3f}): {place} the public "
                f"{public:.3f} of MiniLM-L6-H384."
            )
    weak = [task.plan.name for task in tasks if task.is_weak]
    if weak:
        yield (
            f"**Weak teachers**: those of {', '.join(weak)} are not told apart from always giving the commonest label; "
            "their students prove nothing, and are in no mean over tasks."
        )
    for task in tasks:
        if (tried := task.better_tried) is not None:
            used, other = task.chosen_on(task.teachers[tried.seed]), budget(TrainingSettings(**tried.settings))
            yield (
                f"**{task.plan.name}'s settings are not the best that were tried**: on the held-out part {other} give "
                f"a teacher of {task.chosen_on(tried):.4f}, the plan's {used:.4f} with the same seed."
            )
    few = [
        task.plan.name
        for task in tasks
        if any(len(runs.values) < len(task.plan.seeds) for runs in task.students.values())
    ]
    if few:
        yield f"Seeds are missing for {', '.join(few)}: an interval from few of them knows little of how seeds vary."
    none = [task.plan.name for task in tasks if not task.students]
    if none:
        yield f"Nothing can be said of {', '.join(none)} yet."


def _claim(tasks: Sequence[TaskSummary], depth: int) -> Iterator[str]:
    """The paper's: PKD-Skip before KD before fine-tuning."""
    said = list(_links(tasks, depth, (("pkd-skip", "kd"), ("kd", "finetune"))))
    if not said:
        yield f"**PKD-Skip ≥ KD ≥ fine-tuning, {depth} layers**: nothing yet from a teacher that has learned something."
        return
    yield f"**PKD-Skip ≥ KD ≥ fine-tuning, {depth} layers**: {'; '.join(said)}."


def _start_and_losses(tasks: Sequence[TaskSummary], depth: int) -> Iterator[str]:
    pairs = (("best", "pkd-skip"), ("kd-teacher-start", "kd"), ("best", "kd-teacher-start"))
    said = list(_links(tasks, depth, pairs))
    if said:
        yield f"**best, its start, losses and rate, {depth} layers**: {'; '.join(said)}."


def _links(tasks: Sequence[TaskSummary], depth: int, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Each pair over all tasks that have it: `kd against finetune +0.4 points (-0.1 to +0.9), undecided …`."""
    weak = {task.plan.name for task in tasks if task.is_weak}
    for first, second in pairs:
        found = [made for made in contests_of(tasks, depth, first, second) if not weak & set(made.tasks)]
        if not found:
            continue
        made, each = found[-1], [entry for entry in found if len(entry.tasks) == 1]
        difference = made.result.difference
        word = verdict(made)
        said = "cannot be told from one seed" if word == ONE_SEED else f"is {word}"
        where = made.tasks[0] if len(made.tasks) == 1 else f"the mean of {len(made.tasks)} tasks"
        counts = [
            f"{alone} on {', '.join(names)}"
            for alone in ("better", "worse")
            if (names := [entry.tasks[0] for entry in each if verdict(entry) == alone])
        ]
        apart = f"; alone it is {' and '.join(counts)}" if counts and len(each) > 1 else ""
        yield (
            f"{first} against {second} {said} on {where} ({100 * difference.mean:+.1f} points, "
            f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}; seeds: {seed_counts(made)}){apart}"
        )
