"""What every protocol's routes share: texts in, answers out, through one repository and one scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import Request

from common.batching import BatchLimits
from common.errors import InputError, NotReadyError, TooLargeError, UnderstudyError
from common.tokenization import Encoded
from serve.cascade import check_pair, confidence
from serve.codec import Codec, Prediction
from serve.metrics import ServerMetrics
from serve.model_process import LoadedModel, ModelProcess
from serve.repository import ModelSource, Repository, ServedModel
from serve.requests import unless_gone
from serve.scheduler import BatchReport, Scheduler
from serve.settings import ServiceSettings
from serve.teacher import Teacher
from serve.tokenizing import Tokenizing

_LOG = logging.getLogger("understudy.serve")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one text.

    Attributes:
        prediction: a model's.
        served_by: that model's name.
        abstained: whether it is too unsure for a label.
    """

    prediction: Prediction
    served_by: str
    abstained: bool = False


Outcome = Answer | UnderstudyError


class Service:
    """Models behind a scheduler."""

    def __init__(self, settings: ServiceSettings):
        self.settings = settings
        self.limits = settings.limits
        self.metrics = ServerMetrics()
        self.process = ModelProcess(settings.engine)
        self.process.on_changed = self._replace_changed
        self.repository = Repository(self.process, self._check_place)
        self.scheduler = Scheduler(
            self.process,
            BatchLimits(),
            replace(settings.scheduler, lanes=settings.engine.lanes),
            on_batch=self._count,
        )
        self.tokenizing = Tokenizing(settings.limits.waiting_characters)
        self.teacher: Teacher | None = None
        self.draining = False
        self._default: ServedModel | None = None
        self._refused: dict[str, str] = {}
        self._watch: asyncio.Task[None] | None = None
        self.metrics.watch("queue_items", "Texts waiting", lambda: self.scheduler.waiting_items)
        self.metrics.watch(
            "queue_tokens", "Tokens admitted and not yet answered", lambda: self.scheduler.admitted_tokens
        )
        self.metrics.watch("queue_seconds", "What is queued, by the rate of late", lambda: self.scheduler.wait)
        self.metrics.watch("ready", "Whether a request would be worked on", lambda: self.ready)
        self.metrics.watch(
            "worker_restarts",
            "Times that the model process was started anew, failed ones too",
            lambda: self.process.restarts,
        )

    @property
    def ready(self) -> bool:
        """Whether a request would be worked on, and the server means to go on."""
        return self.scheduler.ready and not self.draining

    @property
    def live(self) -> bool:
        """Whether the server can still do its work; if not, only a new one would."""
        return not self.process.hopeless

    @property
    def default(self) -> ServedModel:
        """The model that answers where none is named."""
        if self._default is None:
            raise NotReadyError("the server is not ready")
        return self._default

    async def start(self) -> None:
        """Loads every model and begins to work; a second call does nothing.

        Raises:
            InputError: a bundle will not do.
            WorkFailedError: CUDA is asked for and cannot be had, or packages are missing.
        """
        if self._default is not None:
            return
        # Whatever takes a bundle's place from here on is news.
        sources = [*self.settings.models, *([] if self.settings.teacher is None else [self.settings.teacher])]
        stamps = {source.path: _stamp(source.path) for source in sources}
        try:
            await self.process.start()
            names = [(await self.repository.add(source)).name for source in self.settings.models]
            student = self.repository.find(names[0])
            if self.settings.teacher is not None:
                teacher = await self.repository.add(self.settings.teacher)
                if teacher.name in names:
                    raise InputError(
                        f"the teacher and a model are both called '{teacher.name}': give it another name with "
                        f"--teacher NAME={self.settings.teacher.path}"
                    )
                check_pair(student.codec, teacher.codec)
                self.teacher = Teacher(
                    self.settings, self.repository, self.scheduler, self.tokenizing, self.metrics, teacher
                )
            self.scheduler.start()
            if self.teacher is not None:
                await self.teacher.start(student)
            self._default = student
        except BaseException:
            await self.stop()
            raise
        if self.settings.watch:
            self._watch = asyncio.create_task(self._look_for_new_bundles(stamps), name="watch")

    async def stop(self, *, at_once: bool = False) -> None:
        """Answers what was admitted, unless it is to end at once, and ends."""
        if self._watch is not None:
            self._watch.cancel()
        if self.teacher is not None:
            await self.teacher.stop()
        await self.scheduler.stop(at_once=at_once)
        self.tokenizing.stop()
        await self.process.stop(at_once=at_once)

    async def classify(
        self,
        request: Request,
        texts: Sequence[Any],
        *,
        truncate: bool,
        model: ServedModel | None = None,
        escalate: bool = True,
    ) -> list[Outcome]:
        """Outcomes in the order of the texts; a caller that goes away stops the work that has not begun.

        Args:
            model: which answers; the default one otherwise.
            escalate: whether the teacher may answer what the model is unsure of.

        Raises:
            TooLargeError: too many texts, or more tokens than the queue could ever hold.
            OverloadedError, NotReadyError, DeadlineError: as `Scheduler.admitted` and `answer`.
            CallerGoneError: the caller hung up.
        """
        if not texts:
            raise InputError("inputs is empty")
        if len(texts) > self.limits.items:
            raise TooLargeError(f"{len(texts):,} inputs; the limit is {self.limits.items:,} a request")
        chosen = model or self.default
        with self.repository.in_use(chosen):
            outcomes = await unless_gone(request, self._answer(chosen, texts, truncate, escalate))
        self._count_texts(request, chosen, outcomes)
        return outcomes

    async def reload(self, model: ServedModel, path: Path | None = None, *, asked: bool = True) -> ServedModel:
        """As `Repository.reload`; the teacher takes note.

        Args:
            asked: whether somebody is to be told that nothing changed.

        Raises:
            InputError, NotFoundError: as there.
        """
        try:
            old, fresh = await self.repository.reload(model, path)
        except UnderstudyError as error:
            self.metrics.reloaded("refused")
            # Said once: whoever watches a directory tries again and again.
            if self._refused.get(model.name) != str(error):
                _LOG.error("%s was not reloaded and goes on as it was: %s", model.name, error)
            self._refused[model.name] = str(error)
            raise
        self._refused.pop(model.name, None)
        if fresh is old:
            if asked:
                _LOG.warning("%s is unchanged and goes on as it was", old.name)
            return old
        if old is self._default:
            self._default = fresh
        if self.teacher is not None and self._default is not None:
            self.teacher.replaced(old, fresh, self._default)
        self.metrics.reloaded("loaded")
        _LOG.warning("%s now serves version %s in place of %s", fresh.name, fresh.version, old.version)
        return fresh

    async def load(self, name: str, path: Path | None = None) -> ServedModel:
        """A bundle in the place of the model of that name, or as a new one, if its bundle is named.

        Raises:
            InputError, NotFoundError: as `Repository.reload`.
        """
        if path is not None and not any(model.name == name for model in self.repository):
            try:
                model = await self.repository.add(ModelSource(path, name))
            except UnderstudyError as error:
                self.metrics.reloaded("refused")
                _LOG.error("%s was not loaded: %s", name, error)
                raise
            self.metrics.reloaded("loaded")
            _LOG.warning("%s now serves version %s", model.name, model.version)
            return model
        return await self.reload(self.repository.find(name), path)

    async def reload_all(self) -> None:
        """Every model anew from where it came from; one that will not do stays as it was, and is logged."""
        for model in list(self.repository):
            with contextlib.suppress(UnderstudyError):
                await self.reload(model)

    async def _answer(self, model: ServedModel, texts: Sequence[Any], truncate: bool, escalate: bool) -> list[Outcome]:
        deadline = asyncio.get_running_loop().time() + self.settings.scheduler.timeout
        prepared = await self.tokenizing.prepare(model.codec, texts, truncate=truncate, deadline=deadline)
        encoded = [entry for entry in prepared if isinstance(entry, Encoded)]
        with self.scheduler.admitted(model.loaded, encoded):
            results = iter(await self.scheduler.answer(model.loaded, encoded, deadline) if encoded else [])
            first = [next(results) if isinstance(entry, Encoded) else entry for entry in prepared]
            second: dict[int, Prediction] = {}
            teacher = self.teacher if model is self._default else None
            if teacher is not None and escalate:
                second = await teacher.second_opinions(texts, first, truncate=truncate, deadline=deadline)
        outcomes: list[Outcome] = []
        for row, outcome in enumerate(first):
            if isinstance(outcome, UnderstudyError):
                outcomes.append(outcome)
                continue
            if teacher is not None:
                teacher.shadow.offer(texts[row], outcome, second.get(row))
            prediction = second.get(row, outcome)
            served_by = teacher.model.name if teacher is not None and row in second else model.name
            outcomes.append(Answer(prediction, served_by, self._abstains(prediction)))
        return outcomes

    def _abstains(self, prediction: Prediction) -> bool:
        least = self.settings.abstain_below
        return least is not None and prediction.task.problem_type != "regression" and confidence(prediction) < least

    def _count_texts(self, request: Request, model: ServedModel, outcomes: Sequence[Outcome]) -> None:
        truncated = 0
        for outcome in outcomes:
            if isinstance(outcome, Answer):
                self.metrics.text(outcome.served_by, "answered")
                if outcome.abstained:
                    self.metrics.abstained()
                if outcome.prediction.truncated:
                    self.metrics.truncated()
                    truncated += 1
            else:
                self.metrics.text(model.name, "failed")
        request.scope["texts"] = {"model": model.name, "texts": len(outcomes), "truncated": truncated}

    async def _replace_changed(self, loaded: LoadedModel) -> None:
        """The model process is started anew and cannot open what it had: if another bundle is there, that one serves.

        Raises:
            InputError: none is, or it will not do either.
        """
        for model in list(self.repository):
            if model.loaded is loaded and await self.reload(model) is model:
                raise InputError(f"{model.source.path} cannot be opened again")

    def _count(self, report: BatchReport) -> None:
        self.metrics.batch(report, report.model.name)

    def _check_place(self, codec: Codec, old: ServedModel) -> None:
        """Student and teacher must go on answering the same question."""
        if self.teacher is None:
            return
        if old is self.teacher.model:
            check_pair(self.default.codec, codec)
        elif old is self._default:
            check_pair(codec, self.teacher.model.codec)

    async def _look_for_new_bundles(self, stamps: dict[Path, Any]) -> None:
        """
        Args:
            stamps: of the bundles before they were opened.
        """
        seen = {(model.name, model.source.path): stamps.get(model.source.path) for model in self.repository}
        while True:
            await asyncio.sleep(self.settings.watch)
            for model in list(self.repository):
                place = model.name, model.source.path
                stamp = _stamp(model.source.path)
                if stamp is None or stamp == seen.get(place):
                    continue
                # What fails is tried again: a copy may be half done, or the model process just being started anew.
                try:
                    await self.reload(model, asked=False)
                    seen[place] = stamp
                except UnderstudyError:
                    pass  # it is logged
                except Exception:
                    _LOG.exception("%s could not be looked at", model.source.path)


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes when another manifest takes the place of the one in a bundle's directory; None where there is none."""
    try:
        status = (path / "understudy.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def all_answers(outcomes: Sequence[Outcome]) -> list[Answer]:
    """The answers, for protocols that fail whole.

    Raises:
        UnderstudyError: the first failed text's error, with its position.
    """
    answers = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, UnderstudyError):
            raise type(outcome)(f"input {index}: {outcome}")
        answers.append(outcome)
    return answers
