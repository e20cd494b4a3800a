"""The sweep file: what it means, and that what is wrong with it is named before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputError
from distill.settings import DistillationSettings
from distill.sweep.space import Range, Search, make_settings, read_space, setting_types


def write(directory: Path, content: str) -> Path:
    path = directory / "space.toml"
    path.write_text(content)
    return path


def test_a_grid_is_every_combination_of_each_variant(tmp_path: Path) -> None:
    space = read_space(
        write(
            tmp_path,
            """
            [settings]
            layers = [2, 3]
            learning_rate = 1e-4
            seed = [0, 1, 2]
            [[variants]]
            method = "finetune"
            [[variants]]
            method = ["kd", "pkd-skip"]
            temperature = [5, 10]
            learning_rate = 5e-5
            """,
        )
    )
    first, second = (list(variant.grid()) for variant in space.variants)
    assert [configuration["layers"] for configuration in first] == [2, 3]
    assert len(second) == 2 * 2 * 2
    assert {configuration["learning_rate"] for configuration in second} == {5e-5}
    assert space.runs == (2 + 8) * 3
    assert set(space.varied) == {"layers", "learning_rate", "method", "temperature"}
    assert space.search == Search("grid")


def test_a_search_has_ranges_and_trials(tmp_path: Path) -> None:
    space = read_space(
        write(
            tmp_path,
            """
            search = {kind = "tpe", trials = 7, seed = 3}
            settings = {layers = 2, alpha = {low = 0, high = 1}, epochs = {low = 2, high = 9, log = true}}
            """,
        )
    )
    assert space.variants[0].choices["alpha"] == Range(0.0, 1.0)
    assert space.variants[0].choices["epochs"] == Range(2, 9, log=True)
    assert space.variants[0].seeds == (0,)
    assert space.runs == 7
    assert space.varied == ["alpha", "epochs"]


def test_every_setting_can_be_tried_and_ends_where_it_belongs() -> None:
    names = set(DistillationSettings(2).describe())
    assert set(setting_types()) == names
    settings = make_settings({"layers": 3, "learning_rate": 1e-3, "method": "kd"}, seed=5)
    assert (settings.layers, settings.training.learning_rate, settings.training.seed) == (3, 1e-3, 5)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("settings = {layers = 2, lr = 1e-4}", "'lr' is an unknown setting; these are known: layers, method"),
        ("settings = {layers = 2, training = 3}", "'training' is an unknown setting"),
        ("setting = {layers = 2}", "'setting' is an unknown table"),
        ("settings = {layers = '2'}", "'layers' must be a whole number, not '2'"),
        ("settings = {layers = 2.0}", "'layers' must be a whole number, not 2.0"),
        ("settings = {layers = true}", "'layers' must be a whole number, not True"),
        ("settings = {layers = 2, alpha = [0.5, 'x']}", "'alpha' must be a number, not 'x'"),
        ("settings = {layers = 2, alpha = nan}", "'alpha' must be a number, not nan"),
        ("settings = {layers = 2, method = [['kd']]}", "'method' must be a string"),
        ("settings = {layers = []}", "'layers' is an empty list"),
        ("settings = {layers = [2, 2]}", "'layers' has a value twice"),
        ("settings = {layers = 2, alpha = 1.5}", "alpha must lie between 0 and 1"),
        ("settings = {layers = 2, method = ['kd', 'magic']}", "method must be one of"),
        ("settings = {alpha = 0.5}", "'layers' is missing"),
        ("settings = {layers = 2, alpha = {low = 0, high = 1}}", "'alpha' is a range, which a grid cannot try"),
        ("settings = 3", "'settings' must be a table"),
        ("variants = []\nsettings = {layers = 2}", "'variants' must be tables"),
        ("variants = [3]\nsettings = {layers = 2}", "'variants' must be a table"),
        ("search = {trials = 3}\nsettings = {layers = 2}", "a grid has no trials"),
        ("search = {kind = 'random'}\nsettings = {layers = 2}", "a random search needs trials"),
        ("search = {kind = 'best'}\nsettings = {layers = 2}", "kind must be one of grid, random, tpe"),
        ("search = {kind = 'tpe', tries = 3}\nsettings = {layers = 2}", "'tries' is an unknown search setting"),
        ("settings = {layers = 2, seed = {low = 0, high = 9}}", "'seed' must be a number or a list"),
        ("settings = {layers = 2, seed = -1}", "seed must lie between 0"),
        ("settings = {layers = 2, temperature = [" + ",".join(map(str, range(1, 10_002))) + "]}", "10,001 runs"),
        ("settings = {layers = 2, alpha = 1" + 400 * "0" + "}", "'alpha' must be a number"),
        ("settings = {layers", "is not valid TOML"),
        ("x = " + 9_999 * "[" + 9_999 * "]", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(content: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_space(write(tmp_path, content))
    assert str(error.value).startswith(str(tmp_path / "space.toml"))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("alpha", "reason"),
    [
        ("{low = 0.5}", "has no 'high'"),
        ("{low = 1, high = 0}", "low below its high"),
        ("{low = 0, high = 1, log = true}", "begin above 0"),
        ("{low = 0, high = 1, step = 0.1}", "'step' is an unknown part of the range"),
        ("{low = 0, high = 1.5}", "alpha must lie between 0 and 1"),
        ("{low = 0, high = 1, log = 1}", "log' must be true or false"),
    ],
)
def test_what_is_wrong_with_a_range_is_named(alpha: str, reason: str, tmp_path: Path) -> None:
    content = f"search = {{kind = 'random', trials = 2}}\nsettings = {{layers = 2, alpha = {alpha}}}"
    with pytest.raises(InputError) as error:
        read_space(write(tmp_path, content))
    assert reason in str(error.value)


def test_values_that_a_search_may_draw_together_must_go_together(tmp_path: Path) -> None:
    """Each of them goes with the first values of the others."""
    content = """
        search = {kind = "random", trials = 2}
        settings = {layers = 2, method = ["kd", "finetune"], hidden_weight = {low = 0, high = 1}}
        """
    with pytest.raises(InputError, match="finetune learns from the labels alone"):
        read_space(write(tmp_path, content))


def test_words_have_no_range(tmp_path: Path) -> None:
    content = "search = {kind = 'random', trials = 2}\nsettings = {layers = 2, method = {low = 1, high = 2}}"
    with pytest.raises(InputError, match="'method' is no number, so it has no range"):
        read_space(write(tmp_path, content))
