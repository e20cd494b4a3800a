"""HTTP servers of one student side by side: `python -m benchmarks.servers.run MODEL --bundle B --int8 I --data D`.

Ours with both bundles, plain FastAPI with ONNX Runtime, LitServe, MLServer and infinity, each from the same weights by
its usual export; and what the engine does without HTTP, which is the ceiling. `make servers` installs the others. The
load is wrk's: one text a request, from one connection and from many. In every round each server is started, checked
for the right labels, warmed up, measured and stopped, so that a machine that slows down does so for all.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.exported_graph import export_plain
from benchmarks.machine import describe_machine
from benchmarks.servers.ceiling import Ceiling
from benchmarks.servers.contestants import NAMES, Contestant, make_contestants
from benchmarks.servers.load import find_wrk, read_texts, run_wrk, write_bodies
from benchmarks.servers.processes import ServerProcess, free_ports
from benchmarks.servers.report import Record, Round, summarize, table
from common.errors import UnderstudyError, WorkFailedError
from common.files import write_json
from common.progress import say
from distill.models import input_names, load_classifier, load_config
from distill.sources import find_model
from serve.engine import Engine, Prediction

SINGLE, MANY = 1, 32
CHECKED_TEXTS = 50
_WARM_UP_SECONDS = 2
# Set outside, they change what the servers' libraries do by default.
_TELLING_VARIABLES = ("OMP_", "GOMP_", "MKL_", "TOKENIZERS_")


def compare(
    model: Path,
    bundles: dict[str, Path],
    texts: Sequence[str],
    *,
    names: Sequence[str] = NAMES,
    rounds: int = 3,
    seconds: int = 15,
    serve_options: Sequence[str] = (),
) -> dict[str, Any]:
    """Measures all servers in turn.

    Args:
        model: the student in the Hub's layout.
        bundles: its bundles by 'fp32' and 'int8'.
        texts: what is asked, over and over.
        names: the servers, of `NAMES`.
        rounds: starts of each server.
        seconds: of each load.
        serve_options: more arguments for `understudy serve`.

    Returns:
        `machine`, `settings`, `ceilings` by precision, and `servers` as `summarize` gives them.

    Raises:
        WorkFailedError: wrk is not installed.
    """
    find_wrk()
    machine = describe_machine()
    ceilings = {precision: Ceiling.of(bundle) for precision, bundle in bundles.items()}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        plain = _plain_export(model, directory / "plain")
        contestants = make_contestants(model.resolve(), plain, bundles, serve_options)
        records = [_enter(contestant) for contestant in contestants if contestant.name in names]
        for turn in range(rounds):
            # There and back, so that ours are measured beside the ceiling in every round.
            steps: list[Ceiling | Record] = [*ceilings.values(), *(record for record in records if not record.error)]
            for step in steps if turn % 2 == 0 else steps[::-1]:
                if isinstance(step, Ceiling):
                    step.measure(texts)
                    continue
                place = directory / f"{turn}-{step.contestant.name}"
                place.mkdir()
                engine = ceilings[step.contestant.bundle].engine
                try:
                    step.rounds.append(_measure(step.contestant, engine, texts, turn, seconds, place))
                except WorkFailedError as error:
                    step.error = str(error)
                say(f"round {turn + 1}: {step.contestant.name}{f': {step.error}' if step.error else ''}")
    return {
        "machine": machine,
        "settings": {
            "connections": [SINGLE, MANY],
            "seconds": seconds,
            "rounds": rounds,
            "texts": len(texts),
            "environment": {key: value for key, value in os.environ.items() if key.startswith(_TELLING_VARIABLES)},
        },
        "ceilings": {precision: ceiling.as_dict() for precision, ceiling in ceilings.items()},
        "servers": summarize(records, ceilings),
    }


def _plain_export(model: Path, output: Path) -> Path:
    """Writes what others serve: the exporter's graph beside config and tokenizer."""
    source = find_model(str(model))
    classifier = load_classifier(source, load_config(source)).eval()
    output.mkdir()
    export_plain(classifier, input_names(classifier), output / "model.onnx")
    for file in source.path.glob("*"):
        if file.suffix in (".json", ".txt"):
            shutil.copy(file, output)
    return output


def _enter(contestant: Contestant) -> Record:
    try:
        contestant.require_installed()
    except WorkFailedError as error:
        return Record(contestant, {}, [], str(error))
    return Record(contestant, contestant.versions(), [])


def _measure(
    contestant: Contestant, engine: Engine, texts: Sequence[str], turn: int, seconds: int, place: Path
) -> Round:
    """One start of one server, in an empty directory of its own."""
    bodies = write_bodies([contestant.body(text) for text in texts], place / "bodies.jsonl")
    load_average = os.getloadavg()[0]
    (port,) = free_ports(1)
    command = contestant.command(port, place)
    log = place / "server.log"
    server = ServerProcess(command, port, contestant.ready_path, log, contestant.environment)
    with server:
        check_labels(contestant, server, engine, texts)
        url = server.url + contestant.path
        run_wrk(url, bodies, MANY, _WARM_UP_SECONDS)
        single = run_wrk(url, bodies, SINGLE, seconds)
        before = server.cpu_seconds()
        many = run_wrk(url, bodies, MANY, seconds)
        after = server.cpu_seconds()
    cpu_ms = 1e3 * (after - before) / many.requests if before and after else None
    return Round(turn, load_average, server.start_seconds, server.exit_code, single, many, cpu_ms)


def check_labels(contestant: Contestant, server: ServerProcess, engine: Engine, texts: Sequence[str]) -> None:
    """Asks the server for texts from all over the table, and the engine for the same.

    Raises:
        WorkFailedError: a label differs, or the answer has none.
    """
    chosen = texts[:: max(1, len(texts) // CHECKED_TEXTS)][:CHECKED_TEXTS]
    for text, expected in zip(chosen, engine.classify(chosen), strict=True):
        answer = server.post(contestant.path, contestant.body(text))
        try:
            label = contestant.label(answer)
        except (LookupError, TypeError, ValueError) as error:
            raise WorkFailedError(f"it answered {str(answer)[:300]}, in which no label is found: {error!r}") from None
        if not isinstance(expected, Prediction) or label != expected.label:
            raise WorkFailedError(f"it gave {text[:80]!r} the label {label}, the engine {expected}")


def _names(value: str) -> list[str]:
    names = value.split(",")
    unknown = set(names) - set(NAMES)
    if unknown:
        raise argparse.ArgumentTypeError(f"no such server: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return names


def main() -> None:
    """Parses the arguments, measures, prints the table and writes the JSON."""
    parser = argparse.ArgumentParser(description="HTTP servers of one student, side by side")
    parser.add_argument("model", type=Path, help="the student in the Hub's layout")
    parser.add_argument("--bundle", type=Path, required=True, help="its float32 bundle")
    parser.add_argument("--int8", type=Path, required=True, help="its int8 bundle")
    parser.add_argument("--data", required=True, help="table of texts")
    parser.add_argument("--seconds", type=int, default=15, help="of each load")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each server")
    parser.add_argument("--only", type=_names, default=list(NAMES), metavar="NAMES", help=f"of {','.join(NAMES)}")
    parser.add_argument(
        "--serve-options", type=shlex.split, default=[], help="more for `understudy serve`, as in ='--threads 1'"
    )
    parser.add_argument("--json", type=Path, required=True, help="where the results go")
    given = parser.parse_args()
    # A stop request unwinds like Ctrl-C, so that no server stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        result = compare(
            given.model,
            {"fp32": given.bundle, "int8": given.int8},
            read_texts(given.data),
            names=given.only,
            rounds=given.rounds,
            seconds=given.seconds,
            serve_options=given.serve_options,
        )
    except UnderstudyError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    write_json(given.json, result)
    print(table(result["servers"], result["ceilings"]))


if __name__ == "__main__":
    main()
