import pytest

from common.errors import InputError
from distill.settings import DistillationSettings, TrainingSettings


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
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
        {"alpha": 1.5},
        {"beta": -1.0},
    ],
)
def test_distillation_settings_are_checked(values: dict[str, object]) -> None:
    with pytest.raises(InputError):
        DistillationSettings(**{"layers": 3, **values})  # type: ignore[arg-type]


def test_finetune_has_no_teacher_terms_and_kd_no_patience() -> None:
    assert DistillationSettings(3, "finetune").soft_weight == 0
    assert DistillationSettings(3, "finetune").patience_weight == 0
    assert DistillationSettings(3, "kd").soft_weight == 0.7
    assert DistillationSettings(3, "kd").patience_weight == 0
    assert DistillationSettings(3, "pkd-last").patience_weight == 100
