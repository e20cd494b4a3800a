"""The verdict in plain words: what one loses, what one gains, and whether it is noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.bench.report.figures import (
    MEGABYTES,
    MILLISECONDS,
    RATE,
    count,
    excludes_one,
    inverse,
    metric,
    number,
    percent,
    readable,
    sentence,
    times,
    told,
)
from benchmarks.bench.report.schema import Model, Results
from benchmarks.bench.report.schema_parts import Estimate, Latency, ModelAgreement

# The usual threshold of a test.
SIGNIFICANT = 0.05
FAST, MANY = "as fast", "as many"


@dataclass(frozen=True)
class Verdict:
    """What becomes of a user who replaces the teacher by one student.

    Attributes:
        student: its id.
        headline: the whole in one sentence.
        loses: sentences on answers.
        gains: sentences on speed and size.
    """

    student: str
    headline: str
    loses: list[str]
    gains: list[str]


@dataclass(frozen=True)
class SpeedUp:
    """How many times as fast a student is as the teacher.

    Attributes:
        name: of the scenario, in words.
        factor: above 1 where the student is faster.
        manner: what is so many times the teacher's, as in "twice as fast".
        figures: what stands behind it, of student and teacher.
    """

    name: str
    factor: Estimate
    manner: str
    figures: str


def report_title(results: Results) -> str:
    """Who is measured against whom."""
    return f"{', '.join(readable(model.id) for model in results.students)} against {readable(results.teacher.id)}"


def verdicts(results: Results) -> list[Verdict]:
    """One for each student."""
    return [
        Verdict(student.id, _headline(results, student), _loses(results, student), _gains(results, student))
        for student in results.students
    ]


def is_noisy(results: Results) -> bool:
    """Whether a verdict on speed is refused."""
    return results.noise.verdict == "noisy"


def noise_sentence(results: Results) -> str:
    """Whether the figures of speed can be believed."""
    noise = results.noise
    spread = f"the rounds' medians spread by {percent(noise.spread)}, and {percent(noise.limit)} is the limit"
    if is_noisy(results):
        is_wide = noise.spread > noise.limit
        reasons = [f"the machine was too noisy ({spread})"] * is_wide + [readable(reason) for reason in noise.reasons]
        advice = "measure again on a quiet machine" if is_wide else "measure again"
        return f"NO VERDICT ON SPEED: {'; '.join(reasons)}. Every figure of speed here is in doubt; {advice}."
    return f"The machine was steady: {spread}. A ratio whose interval leaves out 1 is more than noise."


def speed_ups(results: Results, student: str) -> Iterator[SpeedUp]:
    """Of each scenario that tells one."""
    teacher = results.teacher.id
    single, multi, server, offline = results.single_stream, results.multi_stream, results.server, results.offline
    pairs: list[tuple[str, Latency | None, Latency | None]] = []
    if single is not None:
        pairs.append(("one text at a time", single.models.get(student), single.models.get(teacher)))
    if multi is not None:
        pairs.append((f"{multi.streams} texts at a time", multi.models.get(student), multi.models.get(teacher)))
    for name, own, other in pairs:
        factor = inverse(own.ratio_p50) if own else None
        if own and other and factor:
            figures = f"p50 {MILLISECONDS(own.p50_ms.value)} against {MILLISECONDS(other.p50_ms.value)}"
            yield SpeedUp(name, factor, FAST, figures)
    if server is not None and student in server.models and teacher in server.models:
        mine, theirs = server.models[student], server.models[teacher]
        if mine.ratio and mine.max_rate and theirs.max_rate:
            figures = f"{RATE(mine.max_rate.value)} against {RATE(theirs.max_rate.value)}"
            yield SpeedUp(f"random arrivals, p99 within {server.bound_ms:g} ms", mine.ratio, MANY, figures)
    if offline is not None and student in offline.models and teacher in offline.models:
        at_once = offline.models[student]
        if at_once.ratio:
            others = offline.models[teacher].texts_per_s.value
            figures = f"{RATE(at_once.texts_per_s.value)} against {RATE(others)}"
            yield SpeedUp("all texts at once", at_once.ratio, MANY, figures)


def _headline(results: Results, student: Model) -> str:
    parts = []
    speed_up = next(speed_ups(results, student.id), None)
    if is_noisy(results):
        parts.append("no verdict on speed")
    elif speed_up is not None:
        parts.append(_how_fast(speed_up))
    own = results.quality.models.get(student.id) if results.quality else None
    agreement = results.agreement.models.get(student.id) if results.agreement else None
    if results.quality and own and own.retention:
        parts.append(f"keeps {percent(own.retention.value)} of the teacher's {results.quality.metric}")
    elif agreement:
        parts.append(_agreeing(agreement))
    return f"{readable(student.id)}: {', '.join(parts) or 'nothing could be compared'}."


def _how_fast(speed_up: SpeedUp) -> str:
    if not excludes_one(speed_up.factor):
        return f"no difference in speed that this run can tell ({speed_up.name})"
    return f"{times(speed_up.factor.value)} {speed_up.manner} as the teacher ({speed_up.name})"


def _agreeing(agreement: ModelAgreement, *, interval: bool = False) -> str:
    form = metric if "correlation" in agreement.name else percent
    value = told(agreement.value, form) if interval else form(agreement.value.value)
    return f"{agreement.name} as the teacher: {value}" if form is percent else f"{agreement.name}: {value}"


def _loses(results: Results, student: Model) -> list[str]:
    sentences = []
    quality = results.quality
    agreement = results.agreement.models.get(student.id) if results.agreement else None
    if quality is None:
        sentences.append("The data has no labels, so what is lost in quality is not known.")
    elif student.id in quality.models and results.teacher.id in quality.models:
        own, other = quality.models[student.id], quality.models[results.teacher.id]
        values = [metric(model.metrics[quality.metric].value) for model in (own, other)]
        kept = f": {told(own.retention, percent)} is kept" if own.retention else ""
        sentences.append(f"{quality.metric} {values[0]} against {values[1]}{kept}.")
        sentences.append(_difference(own.retention, agreement, quality.rows))
    if agreement:
        sentences.append(f"{_agreeing(agreement, interval=True)} of {count(agreement.rows, 'text')}.")
    return [sentence(text) for text in sentences if text]


def _difference(retention: Estimate | None, agreement: ModelAgreement | None, rows: int) -> str:
    """Whether the difference in quality is more than chance."""
    chance = f"cannot be told from chance on {count(rows, 'row')}"
    if agreement and agreement.mcnemar:
        test = agreement.mcnemar
        if not test.student_only and not test.teacher_only:
            return f"Student and teacher are right on the same ones of {count(rows, 'row')}."
        outcome = f"is beyond chance on {count(rows, 'row')}" if test.p < SIGNIFICANT else chance
        return (
            f"The student alone is right {count(test.student_only, 'time')}, the teacher alone "
            f"{count(test.teacher_only, 'time')}: the difference {outcome} (McNemar's exact p {test.p:.2g})."
        )
    if retention is None or retention.low is None:
        return ""
    return f"The difference {'is beyond chance' if excludes_one(retention) else chance}."


def _gains(results: Results, student: Model) -> list[str]:
    sentences = []
    if not is_noisy(results):
        for speed_up in speed_ups(results, student.id):
            same = "" if excludes_one(speed_up.factor) else ", which is no difference that this run can tell"
            sentences.append(
                f"{speed_up.name}: {told(speed_up.factor, times)} {speed_up.manner} ({speed_up.figures}){same}."
            )
    teacher = results.teacher
    smaller = []
    if student.bytes and teacher.bytes:
        smaller.append(f"{MEGABYTES(student.bytes)} on disk against {MEGABYTES(teacher.bytes)}")
    costs = results.cost.models if results.cost else {}
    own, other = costs.get(student.id), costs.get(teacher.id)
    if own and other and own.peak_memory_bytes and other.peak_memory_bytes:
        memory = [MEGABYTES(cost.peak_memory_bytes.value) for cost in (own, other) if cost.peak_memory_bytes]
        smaller.append(f"{memory[0]} of memory at most against {memory[1]}")
    if smaller:
        sentences.append(f"{', '.join(smaller)}.")
    if own and other and own.price_per_million and other.price_per_million and not is_noisy(results):
        prices = [number(cost.price_per_million.value) for cost in (own, other) if cost.price_per_million]
        sentences.append(f"A million texts cost {prices[0]} against {prices[1]}.")
    return list(map(sentence, sentences))
