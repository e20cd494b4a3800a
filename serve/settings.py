"""All that a server is told when it starts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputError
from serve.access import AccessSettings
from serve.cascade import CascadeSettings
from serve.model_process import EngineOptions
from serve.repository import ModelSource
from serve.requests import ServiceLimits
from serve.scheduler import SchedulerSettings
from serve.shadow import ShadowSettings


@dataclass(frozen=True)
class ServiceSettings:
    """What is served and how.

    Attributes:
        models: the first is the one that answers where a request names none.
        teacher: stands beside the first model and can be asked by name as well.
        abstain_below: the confidence below which an answer has no label.
        watch: seconds between looks whether a bundle's directory holds another one; 0 never looks.
        access_log: gets a line a request; '-' is standard output.
    """

    models: tuple[ModelSource, ...]
    teacher: ModelSource | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    scheduler: SchedulerSettings = field(default_factory=SchedulerSettings)
    limits: ServiceLimits = field(default_factory=ServiceLimits)
    cascade: CascadeSettings = field(default_factory=CascadeSettings)
    shadow: ShadowSettings = field(default_factory=ShadowSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    abstain_below: float | None = None
    watch: float = 0.0
    access_log: Path | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise InputError("no bundle to serve")
        if self.teacher is None and (self.cascade.on or self.shadow.share):
            raise InputError("a cascade or shadow traffic needs a teacher: name its bundle with --teacher")
        if self.abstain_below is not None and not 0 < self.abstain_below <= 1:
            raise InputError("--abstain-below must lie above 0 and be at most 1: it is a probability")
        if not 0 <= self.watch < math.inf:
            raise InputError("--watch must not be negative: it is a number of seconds")
