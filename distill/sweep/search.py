"""Which configuration is tried next. What was drawn is never stored: the same space and scores draw the same again."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from distill.sweep.space import Configuration, Range, Search, Variant


def configurations(variant: Variant, search: Search) -> Generator[Configuration, float | None, None]:
    """One configuration after another; each must be answered by `send` with its score, the higher the better.

    A sweep that is taken up again sends the scores of the rows that it has, and so comes to the same configurations.
    None is the score of a configuration that has none, since a run of it failed.
    """
    if search.kind == "grid":
        yield from variant.grid()
        return
    # Optuna takes a second to load, and a grid does without it.
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    study = optuna.create_study(sampler=samplers[search.kind](seed=search.seed), direction="maximize")
    for _ in range(search.trials):
        trial = study.ask()
        score = yield {name: _drawn(trial, name, values) for name, values in variant.choices.items()}
        if score is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, score)


def _drawn(trial: Any, name: str, values: tuple[Any, ...] | Range) -> Any:
    if not isinstance(values, Range):
        return values[0] if len(values) == 1 else trial.suggest_categorical(name, values)
    suggest = trial.suggest_int if values.whole else trial.suggest_float
    return suggest(name, values.low, values.high, log=values.log)
