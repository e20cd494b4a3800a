import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from distill.layer_map import initial_layers, patience_layers


@pytest.mark.parametrize(
    ("teacher", "student", "skip", "last"),
    [
        (12, 6, (2, 4, 6, 8, 10), (7, 8, 9, 10, 11)),
        (12, 3, (4, 8), (10, 11)),
        (12, 4, (3, 6, 9), (9, 10, 11)),
        (6, 3, (2, 4), (4, 5)),
    ],
)
def test_maps_are_the_papers(teacher: int, student: int, skip: tuple[int, ...], last: tuple[int, ...]) -> None:
    assert patience_layers("pkd-skip", teacher, student) == skip
    assert patience_layers("pkd-last", teacher, student) == last


@given(st.integers(2, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_maps_rise_and_leave_the_top_out(depths: tuple[int, int]) -> None:
    teacher, student = depths
    for method in ("pkd-skip", "pkd-last"):
        layers = patience_layers(method, teacher, student)
        assert len(layers) == student - 1
        assert list(layers) == sorted(set(layers))
        assert all(1 <= layer < teacher for layer in layers)


@given(st.integers(2, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n - 1))))
def test_skip_rounds_to_the_nearest_layer(depths: tuple[int, int]) -> None:
    teacher, student = depths
    for position, layer in enumerate(patience_layers("pkd-skip", teacher, student), start=1):
        assert abs(layer - position * teacher / student) <= 0.5


@pytest.mark.parametrize("method", ["finetune", "kd"])
def test_methods_without_patience_match_nothing(method: str) -> None:
    assert patience_layers(method, 12, 6) == ()


@pytest.mark.parametrize("layers", [6, 7])
def test_a_student_as_deep_as_its_teacher_is_refused(layers: int) -> None:
    with pytest.raises(InputError, match=f"asked for {layers}, the teacher has 6"):
        patience_layers("kd", 6, layers)


def test_initial_layers() -> None:
    assert initial_layers("pretrained", 12, 3) == (1, 2, 3)
    assert initial_layers("teacher-first", 6, 3) == (1, 2, 3)
    assert initial_layers("teacher-skip", 6, 3) == (2, 4, 6)
    assert initial_layers("teacher-skip", 12, 5) == (2, 5, 7, 10, 12)
    with pytest.raises(InputError, match="cannot start from a model of 2"):
        initial_layers("pretrained", 2, 3)
