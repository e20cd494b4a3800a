"""The teacher beside its student: second opinions within a request, and shadow traffic behind it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from common.errors import InputError, UnderstudyError
from common.examples import read_examples
from common.progress import say
from common.tokenization import Encoded, Text
from serve.cascade import Budget, Fit, fit_threshold, unsure
from serve.codec import Prediction
from serve.metrics import ServerMetrics
from serve.repository import Repository, ServedModel
from serve.scheduler import Scheduler
from serve.settings import ServiceSettings
from serve.shadow import Shadow
from serve.tokenizing import Tokenizing

_LOG = logging.getLogger("understudy.serve")


class Teacher:
    """A served model that answers in place of the default one, or is compared with it.

    Attributes:
        model: the teacher's.
        threshold: the student's confidence below which it is asked; None never asks.
        fit: how the threshold was fitted, where it was.
        shadow: the comparison of the two.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        repository: Repository,
        scheduler: Scheduler,
        tokenizing: Tokenizing,
        metrics: ServerMetrics,
        model: ServedModel,
    ):
        self.model = model
        self.threshold = settings.cascade.escalate_below
        self.fit: Fit | None = None
        self.shadow = Shadow(settings.shadow, self._opinions, metrics)
        self._settings = settings.cascade
        self._fitting: asyncio.Task[None] | None = None
        self._budget = Budget(settings.cascade.largest_share)
        self._repository = repository
        self._scheduler = scheduler
        self._tokenizing = tokenizing
        self._metrics = metrics

    async def start(self, student: ServedModel) -> None:
        """Fits the threshold, if one is to be fitted, and begins to compare."""
        await self._fit(student)
        self.shadow.start()

    async def stop(self) -> None:
        """Ends the comparison."""
        if self._fitting is not None:
            self._fitting.cancel()
        await self.shadow.stop()

    def replaced(self, old: ServedModel, fresh: ServedModel, student: ServedModel) -> None:
        """A model of the server was replaced; if it was one of the two, what was known of them is out of date."""
        if old is self.model:
            self.model = fresh
        elif fresh is not student:
            return
        self.shadow.forget()
        # Aside, since whoever replaced it may be what the fit would wait for: the model process on its way back.
        if self._fitting is not None:
            self._fitting.cancel()
        self._fitting = asyncio.create_task(self._fit_anew(student), name="fit")

    async def second_opinions(
        self, texts: Sequence[Any], first: Sequence[Prediction | UnderstudyError], *, truncate: bool, deadline: float
    ) -> dict[int, Prediction]:
        """The teacher's answers by row, to the texts of which the student is unsure, as far as the budget goes.

        Whatever keeps the teacher from answering, the student has answered already: so nothing is raised.

        Args:
            first: the student's answers.
            truncate, deadline: as the request has them.
        """
        rows = unsure(first, self.threshold) if self.threshold is not None else []
        granted = rows[: self._budget.grant(len(first), len(rows))]
        self._metrics.escalated("over_budget", len(rows) - len(granted))
        if not granted:
            return {}
        asked = [texts[row] for row in granted]
        model = self.model
        try:
            with self._repository.in_use(model):
                prepared = await self._tokenizing.prepare(model.codec, asked, truncate=truncate, deadline=deadline)
                encoded = {row: text for row, text in zip(granted, prepared, strict=True) if isinstance(text, Encoded)}
                outcomes = await self._scheduler.answer(model.loaded, list(encoded.values()), deadline, first=True)
        except UnderstudyError:
            self._metrics.escalated("failed", len(granted))
            return {}
        answers = {
            row: outcome for row, outcome in zip(encoded, outcomes, strict=True) if isinstance(outcome, Prediction)
        }
        self._metrics.escalated("answered", len(answers))
        self._metrics.escalated("failed", len(granted) - len(answers))
        return answers

    async def _opinions(self, texts: Sequence[Text]) -> list[Prediction | None]:
        return await self._in_background(self.model, texts)

    async def _fit_anew(self, student: ServedModel) -> None:
        try:
            await self._fit(student)
        except UnderstudyError as error:
            _LOG.error("the cascade's threshold could not be fitted anew and stays %s: %s", self.threshold, error)

    async def _fit(self, student: ServedModel) -> None:
        """
        Raises:
            InputError: the table cannot be read, or none of its texts classified by both.
        """
        target, dev, columns = self._settings.target_agreement, self._settings.dev, self._settings.columns
        if target is None or dev is None:
            return
        examples = await asyncio.to_thread(read_examples, dev, columns, split="validation", read_labels=False)
        own = await self._in_background(student, examples.texts)
        other = await self._in_background(self.model, examples.texts)
        both = [(a, b) for a, b in zip(own, other, strict=True) if a is not None and b is not None]
        if not both:
            raise InputError(f"{dev}: no text was classified by both models")
        self.fit = fit_threshold([a for a, _ in both], [b for _, b in both], target)
        self.threshold = self.fit.threshold
        say(
            f"Cascade: below a confidence of {self.fit.threshold:.4f} {self.model.name} answers, "
            f"{self.fit.escalated:.1%} of {self.fit.texts:,} texts; agreement with it "
            f"{self.fit.student_agreement:.2%} without, {self.fit.agreement:.2%} with it, on these same texts"
        )
        share = self._settings.largest_share
        if self.fit.escalated > share:
            say(
                f"The budget of {share:.1%} is less than that, so texts like these will miss it: "
                "raise --escalation-budget"
            )

    async def _in_background(self, model: ServedModel, texts: Sequence[Text]) -> list[Prediction | None]:
        """A model's predictions of texts, while nothing else waits; None where it has none."""
        prepared = await asyncio.to_thread(model.codec.prepare, texts)
        encoded = [entry for entry in prepared if isinstance(entry, Encoded)]
        # Of like length one after the other, since batches are cut as they come.
        order = sorted(range(len(encoded)), key=lambda row: encoded[row].tokens)
        with self._repository.in_use(model):
            outcomes = await self._scheduler.answer_in_background(model.loaded, [encoded[row] for row in order])
        by_row = dict(zip(order, outcomes, strict=True))
        answers = iter(by_row[row] for row in range(len(encoded)))
        results = [next(answers) if isinstance(entry, Encoded) else entry for entry in prepared]
        return [result if isinstance(result, Prediction) else None for result in results]
