"""`pretrain`: plain text into an encoder that `finetune` and `distill` take, by one of three objectives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, __version__

from common.errors import InputError
from common.files import check_output, durable_file, read_json, staged_directory, write_json
from common.progress import say, working
from distill.checkpoint import sole_run
from distill.models import make_encoder, save_tokenizer
from distill.pretraining.corpus import Corpus
from distill.pretraining.infoword import InfoWordObjective
from distill.pretraining.masked import MaskedObjective
from distill.pretraining.objective import PretrainingObjective
from distill.pretraining.permutation import PermutationObjective
from distill.pretraining.record import PretrainingRecord
from distill.pretraining.run import PretrainingRun
from distill.pretraining.settings import PretrainingSettings
from distill.pretraining.start import Start, find_start, make_model
from distill.pretraining.stream import SegmentStream, ShuffledDocuments
from distill.pretraining.tokenizer import as_transformers, text_encoder, train_tokenizer
from distill.processes import launched, one_voice
from distill.run_state import config_sha256, module_sha256, versions
from distill.training import choose_device, make_repeatable

OBJECTIVES: dict[str, type[PretrainingObjective]] = {
    kind.name: kind for kind in (MaskedObjective, PermutationObjective, InfoWordObjective)
}


@one_voice()
def pretrain(
    corpus: Sequence[str | Path],
    output: Path,
    settings: PretrainingSettings,
    *,
    model: str | None = None,
    config: Path | None = None,
    tokenizer: Path | None = None,
    documents: str | None = None,
    overwrite: bool = False,
) -> PretrainingRecord:
    """Pretrains an encoder and writes it to `output` in the Hub's layout, with its tokenizer and `pretraining.json`.

    A run that was killed goes on where its last checkpoint was, if it is asked for again (`checkpoint.sole_run`).

    Args:
        corpus: files of plain text, compressed or not.
        model: a directory, the embedded default's name, or a name on the Hub, to go on from.
        config: a config.json for random weights; without it and `model`, a small model of four layers.
        tokenizer: a directory with one, for random weights; without it, one is trained on the corpus.
        documents: `line` or `paragraph` (see `Corpus`); None takes what the first file shows.

    Raises:
        InputError: a corpus, a model, a config or a tokenizer that will not do, or that do not go together.
        WorkFailedError: the loss left the finite numbers.
    """
    started = time.monotonic()
    processes, device = launched(), choose_device()
    check_output(output, directory=True, overwrite=overwrite)
    settings.check_processes(processes.count)
    text = Corpus(corpus, documents)
    start = find_start(settings, model, config, tokenizer)
    if start.source is not None and output.exists() and output.samefile(start.source.path):
        raise InputError(f"{output} is the model itself: choose another output")
    make_repeatable(settings.seed)
    with sole_run(output, overwrite=overwrite) as checkpoint:
        own_tokenizer = start.tokenizer or _trained_tokenizer(start, text, settings, checkpoint.path.parent)
        encoder = make_model(start, own_tokenizer, settings.seed)
        objective = OBJECTIVES[settings.objective](encoder, own_tokenizer, settings)
        record = PretrainingRecord(
            settings=settings.describe(),
            corpus=text.describe(),
            started_from=start.source.describe() if start.source is not None else None,
            model=_sizes(encoder.config, objective),
            device=device.type,
        )
        _say_what(settings, text, start, record)
        shuffled = ShuffledDocuments(text, text_encoder(own_tokenizer), settings.seed)
        backwards = settings.batch_size // 2 if settings.bidirectional else 0
        stream = SegmentStream(shuffled, settings.batch_size, objective.body_tokens, objective.stride, backwards)
        identity = {
            **settings.describe(),
            "corpus": text.sha256,
            "documents": text.documents,
            "config": config_sha256(encoder),
            "starting weights": module_sha256(objective),
            "tokenizer": make_encoder(own_tokenizer, encoder.config, settings.max_length).sha256,
            "device": device.type,
            "processes": processes.count,
            **versions(),
        }
        objective.to(device)
        record.wall_time_s = time.monotonic() - started
        run = PretrainingRun(objective, stream, settings, record, processes, device)
        kept = processes.from_first(checkpoint.load(identity) if processes.is_first else None)
        if kept is not None:
            run.load_state_dict(kept)
        run.train(checkpoint)
        objective.cpu().eval()
        record.wall_time_s = round(record.wall_time_s, 3)
        if processes.is_first:
            with staged_directory(output, overwrite=overwrite, work=checkpoint.path.parent) as staging:
                objective.save(staging)
                save_tokenizer(own_tokenizer, staging, settings.max_length)
                record.write(staging)
        processes.wait()
    return record


def _trained_tokenizer(start: Start, corpus: Corpus, settings: PretrainingSettings, directory: Path) -> Any:
    """A tokenizer of the corpus, trained by the first process and kept in `directory`: a killed run finds it there."""
    processes = launched()
    trained = _trained_once(start, corpus, settings, directory / "tokenizer.json") if processes.is_first else ""
    return as_transformers(Tokenizer.from_str(processes.from_first(trained)), start.family, settings.max_length)


def _trained_once(start: Start, corpus: Corpus, settings: PretrainingSettings, path: Path) -> str:
    vocabulary = start.config.vocab_size
    made_from = {
        "corpus": corpus.sha256,
        "family": start.family,
        "vocabulary": vocabulary,
        "cased": settings.cased,
        "tokenizers": __version__,
    }
    found = read_json(path) if path.is_file() else {}
    if found.get("made_from") == made_from:
        return str(found["tokenizer"])
    with working(f"training a tokenizer of {vocabulary:,} tokens"):
        trained = train_tokenizer(start.family, corpus.texts, vocabulary, cased=settings.cased).to_str()
    with durable_file(path) as partial:
        write_json(partial, {"made_from": made_from, "tokenizer": trained})
    return trained


def _sizes(config: Any, objective: PretrainingObjective) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in objective.parameters())
    return {
        "type": config.model_type,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "vocabulary": config.vocab_size,
        "parameters": parameters,
    }


def _say_what(settings: PretrainingSettings, corpus: Corpus, start: Start, record: PretrainingRecord) -> None:
    sizes = record.model
    name = "a new model" if start.source is None else start.source.name
    kind = "each line a document" if corpus.documents == "line" else "documents between blank lines"
    if start.tokenizer is None:
        say(f"Trained a tokenizer of {sizes['vocabulary']:,} tokens on the corpus")
    say(
        f"Pretraining {name} ({sizes['type']}, {sizes['layers']} layers, {sizes['parameters'] / 1e6:.1f}M parameters) "
        f"by the {settings.objective} objective on {corpus.lines:,} lines, {kind}"
    )
