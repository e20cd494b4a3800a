"""The command `understudy`: argument parsing, and every foreseeable fault as one line with the right exit code."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

# Read when PyTorch is loaded, which a command does later. Its idle threads would else spin for their partners: where
# cores are shared, the partner has to wait for a core that long, and all is slower by up to twenty times. A thousand
# turns of spinning are short enough for that, and spare a lone text the waking of a thread at every layer.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Read when ONNX Runtime is loaded: its wheels report use to their maker unless told otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import typer

from common.errors import UnderstudyError, memory_shortage
from common.progress import stderr
from understudy import (
    bench_command,
    compare_command,
    pretrain_command,
    serving_commands,
    sweep_command,
    training_commands,
)

app = typer.Typer(
    name="understudy",
    help="Distil a text classifier into a small student, export it as a verified ONNX bundle, and serve it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(pretrain_command.pretrain)
app.command()(training_commands.finetune)
app.command()(training_commands.distill)
app.command()(sweep_command.sweep)
app.command()(training_commands.export)
app.command()(training_commands.adopt)
app.command()(serving_commands.serve)
app.command()(serving_commands.score)
app.command()(compare_command.compare)
app.command()(bench_command.bench)
app.command()(training_commands.demo)
app.command()(serving_commands.inspect)


def main() -> NoReturn:
    """Runs the command and ends the process: 0, 1 (the work failed) or 2 (the arguments or the input are wrong)."""
    # A stop request unwinds like Ctrl-C, so that half-written outputs are removed.
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        # Not every terminal has all characters, and no result is lost for one of them.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        # Typer turns Ctrl-C into an exit with code 130, which it hands back rather than raises.
        ended = app(standalone_mode=False)
        code = ended if isinstance(ended, int) else 0
        if code == 130:
            raise KeyboardInterrupt
    except UnderstudyError as error:
        code = _fail(str(error), error.exit_code)
    except typer.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted; nothing half-written is left", 1)
    except BrokenPipeError:
        # The reader of standard output went away; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except ModuleNotFoundError as error:
        extra = "ray" if error.name == "ray" else "train"
        code = _fail(f"{error.name} is not installed: pip install '.[{extra}]' in Understudy's directory", 1)
    except OSError as error:
        code = _fail(_explain(error), 1)
    except Exception as error:
        if _is_usage_error(error):
            error.show()  # type: ignore[attr-defined]
            code = 2
        elif (shortage := memory_shortage(error)) is not None:
            code = _fail(shortage, 1)
        else:
            raise
    sys.exit(code)


def _is_usage_error(error: Exception) -> bool:
    # Typer raises the errors of the argument parser that it carries, which is not always the installed click.
    return any(kind.__name__ == "ClickException" for kind in type(error).__mro__)


def _fail(message: str, code: int) -> int:
    stderr.print(f"understudy: {message}", markup=False, style="red")
    return code


def _explain(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{place}the disk is full; no half-written output is left"
    return f"{place}{error.strerror or error}"


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
