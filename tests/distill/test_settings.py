from typing import Any

import pytest

from common.errors import InputError
from distill.settings import RECIPES, DistillationSettings, TrainingSettings


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"epochs": 10**400},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"warmup": 1.0},
        {"max_length": 3},
        {"seed": -1},
    ],
)
def test_training_settings_are_checked(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        TrainingSettings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"layers": 0},
        {"method": "magic"},
        {"init": "nowhere"},
        {"temperature": 0.0},
        {"temperature": 1e200},
        {"temperature": float("inf")},
        {"alpha": 1.5},
        {"beta": -1.0},
        {"hidden_weight": -1.0},
        {"relation_weight": float("inf")},
        {"relations": "minilmv3"},
        {"relation_layer": 0},
        {"relations": "minilm", "relation_heads": 4},
        {"width": 0},
        {"heads": 0},
        {"augment": -1},
        {"method": "finetune", "hidden_weight": 1.0},
        {"method": "finetune", "augment": 1},
        {"method": "finetune", "dim_weight": 1.0},
        {"dim_weight": -0.5},
        {"dim_weight": 1.0, "training": TrainingSettings(batch_size=1)},
        {"init": "teacher-first", "base": "somewhere"},
    ],
)
def test_distillation_settings_are_checked(values: dict[str, object]) -> None:
    with pytest.raises(InputError):
        DistillationSettings(**{"layers": 3, **values})  # type: ignore[arg-type]


def test_each_process_needs_two_rows_to_compare() -> None:
    settings = DistillationSettings(2, dim_weight=1.0, training=TrainingSettings(batch_size=6))
    settings.check_processes(3)
    with pytest.raises(InputError, match=r"in each of 4 processes: batch_size must be at least 8$"):
        settings.check_processes(4)
    DistillationSettings(2, training=TrainingSettings(batch_size=6)).check_processes(4)


def test_finetune_has_no_teacher_terms_and_kd_no_patience() -> None:
    assert DistillationSettings(3, "finetune").soft_weight == 0
    assert DistillationSettings(3, "finetune").patience_weight == 0
    assert DistillationSettings(3, "kd").soft_weight == 0.7
    assert DistillationSettings(3, "kd").patience_weight == 0
    assert DistillationSettings(3, "pkd-last").patience_weight == 100


@pytest.mark.parametrize("method", ["finetune", "kd", "pkd-skip", "pkd-last"])
def test_the_papers_methods_stay_the_papers(method: str) -> None:
    settings = DistillationSettings(3, method)
    alpha = 0.0 if method == "finetune" else 0.7
    beta = 100.0 if method.startswith("pkd") else 0.0
    assert (settings.init, settings.temperature, settings.alpha, settings.beta) == ("pretrained", 5.0, alpha, beta)
    assert (settings.hidden_weight, settings.relation_weight, settings.augment) == (0, 0, 0)
    assert settings.training == TrainingSettings(epochs=4, batch_size=32, learning_rate=5e-5)


def test_best_has_settings_of_its_own_and_what_is_given_goes_before_them() -> None:
    best = DistillationSettings.from_flat({"layers": 3, "method": "best", "alpha": None})
    assert best == DistillationSettings(3, "best")
    recipe = RECIPES["best"]
    assert {name: best.describe()[name] for name in recipe} == recipe
    given = {"temperature": 1.25, "init": "teacher-first", "learning_rate": 3e-3, "epochs": 17, "hidden_weight": 0.0}
    mixed = DistillationSettings.from_flat({"layers": 3, "method": "best", **given}).describe()
    assert mixed == {**best.describe(), **given}


@pytest.mark.parametrize("method", list(RECIPES))
def test_settings_come_back_from_their_description(method: str) -> None:
    settings = DistillationSettings(
        2, method, temperature=2.0, width=16, training=TrainingSettings(seed=4, max_length=9, epochs=3)
    )
    assert DistillationSettings.from_flat(settings.describe()) == settings


def test_names_that_are_no_settings_are_refused() -> None:
    with pytest.raises(InputError, match="no such setting: learning_rte, training"):
        DistillationSettings.from_flat({"layers": 2, "learning_rte": 1e-4, "training": {}})
    with pytest.raises(InputError, match="layers must be given"):
        DistillationSettings.from_flat({"method": "kd"})
    with pytest.raises(InputError, match="method must be one of finetune, kd, pkd-skip, pkd-last, best, not 'magic'"):
        DistillationSettings.from_flat({"layers": 2, "method": "magic"})


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        ({"method": "finetune"}, False),
        ({"method": "kd", "alpha": 0.0}, False),
        ({"method": "kd", "alpha": 0.0, "relation_weight": 1.0}, True),
        ({"method": "kd", "alpha": 0.0, "hidden_weight": 1.0}, True),
        ({"method": "pkd-skip", "alpha": 0.0}, True),
        ({"method": "pkd-skip", "alpha": 0.0, "layers": 1}, False),
        ({"method": "best"}, True),
    ],
)
def test_which_losses_need_the_teacher(values: dict[str, object], needed: bool) -> None:
    assert DistillationSettings(**{"layers": 2, **values}).needs_teacher == needed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "effective"),
    [
        ({"method": "finetune", "alpha": 0.3, "beta": 10.0, "temperature": 2.0}, (0.0, 0.0, None)),
        ({"method": "kd", "alpha": 0.3, "beta": 10.0, "temperature": 2.0}, (0.3, 0.0, 2.0)),
        ({"method": "kd", "alpha": 0.0, "temperature": 2.0}, (0.0, 0.0, None)),
        ({"method": "pkd-skip", "alpha": 0.3, "beta": 10.0, "temperature": 2.0}, (0.3, 10.0, 2.0)),
    ],
)
def test_settings_are_described_as_they_take_effect(
    given: dict[str, Any], effective: tuple[float, float, float | None]
) -> None:
    settings = DistillationSettings.from_flat({"layers": 2, **given})
    described = settings.describe()
    assert (described["alpha"], described["beta"], described["temperature"]) == effective
    assert DistillationSettings.from_flat(described) == settings


def test_what_a_method_does_not_use_makes_no_other_settings() -> None:
    one, other = ({"layers": 2, "method": "finetune", **more} for more in ({}, {"alpha": 0.2, "temperature": 9.0}))
    assert DistillationSettings.from_flat(one) == DistillationSettings.from_flat(other)
