"""Bars on a terminal for long work only, and lines taken literally."""

import io

import pytest
from rich.console import Console

from common import progress as module
from common.progress import progress, say, told_to, working


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, after: float) -> io.StringIO:
    """Where standard error goes, and after how many seconds a bar appears."""
    screen = io.StringIO()
    monkeypatch.setattr(module, "stderr", Console(file=screen, force_terminal=terminal, width=120))
    monkeypatch.setattr(module, "SHOW_AFTER_SECONDS", after)
    return screen


@pytest.mark.parametrize(
    "line", ["[bold]no[/bold] [markup]", "x" * 500, "a, b; c: 12.5 % — é 😀", "", "[/]", ":x: :smile:"]
)
def test_say_prints_a_line_as_it_is_to_standard_output(capsys: pytest.CaptureFixture[str], line: str) -> None:
    say(line)
    captured = capsys.readouterr()
    assert captured.out == line + "\n"
    assert captured.err == ""


def test_no_bar_where_output_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = shown(monkeypatch, terminal=False, after=-1.0)
    with progress("working", 10, "rows") as advance:
        for _ in range(10):
            advance(1)
    assert screen.getvalue() == ""


def test_no_bar_for_short_work(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = shown(monkeypatch, terminal=True, after=3600.0)
    with progress("working", 10, "rows") as advance:
        advance(10)
    assert screen.getvalue() == ""


def test_a_bar_with_description_note_and_percentage_for_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = shown(monkeypatch, terminal=True, after=-1.0)
    with progress("reading [train]", 8, "rows") as advance:
        advance(2, note="loss [0.5]")
    for part in ("reading [train]", "loss [0.5]", "25%"):
        assert part in screen.getvalue()


def test_position_and_size_can_be_set_outright(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = shown(monkeypatch, terminal=True, after=-1.0)
    with progress("scoring", None, "rows") as advance:
        advance(completed=300, total=400)
    assert "75%" in screen.getvalue()


def test_the_bar_is_taken_down_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = shown(monkeypatch, terminal=True, after=-1.0)

    def work() -> None:
        with progress("working", 2, "rows") as advance:
            advance(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    # The cursor is hidden while the bar stands and must come back.
    assert screen.getvalue().rindex("\x1b[?25h") > screen.getvalue().rindex("\x1b[?25l")


def test_a_listener_is_told_instead_of_the_user(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = shown(monkeypatch, terminal=True, after=-1.0)
    heard: list[str] = []
    with told_to(heard.append), working("thinking"):
        say("a line")
        with progress("epoch 1", 4, "rows") as advance:
            advance(1, note="loss 0.5")
            advance(3)
    assert heard == ["a line", "epoch 1 25 % loss 0.5", "epoch 1 100 %"]
    assert screen.getvalue() == ""
    assert capsys.readouterr().out == ""
    say("to the user again")
    assert capsys.readouterr().out == "to the user again\n"
