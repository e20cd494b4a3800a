"""The training loop that fine-tuning and distilling share: batches, steps, dev metric, best epoch kept."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from common.errors import InputError, WorkFailedError
from common.examples import Examples
from common.labels import Task, activate
from common.metrics import LOWER_IS_BETTER, evaluate
from common.progress import progress, say
from common.tokenization import Encoded, TextEncoder
from distill.batches import TokenizedSet, model_inputs, shuffled_batches, sorted_batches
from distill.models import input_names
from distill.record import TrainingRecord
from distill.settings import TrainingSettings

_EVALUATION_BATCH = 64

# Loss terms of a step, by name, from the model's output, the rows of the batch and the targets of those that have one.
Objective = Callable[[Any, list[int], Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class TrainingData:
    """Both tables, tokenized; unlabelled texts, where there are some, stand behind the labelled rows of `train`."""

    train: TokenizedSet
    dev: TokenizedSet
    encoder: TextEncoder
    task: Task


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tokenize(train: Examples, dev: Examples, task: Task, encoder: TextEncoder, vocabulary: int) -> TrainingData:
    """Both tables as token ids and targets.

    Raises:
        InputError: the tables mix single texts and pairs, a dev label is none of the task's (with its line), or the
            tokenizer knows more tokens than the model.
    """
    encoded, dev_encoded = (encode(table, train, encoder, vocabulary) for table in (train, dev))
    return TrainingData(
        TokenizedSet(encoded, task.targets(train.labels, train.places)),
        TokenizedSet(dev_encoded, task.targets(dev.labels, dev.places)),
        encoder,
        task,
    )


def encode(table: Examples, train: Examples, encoder: TextEncoder, vocabulary: int) -> list[Encoded]:
    """The token ids of a table that is used with `train`.

    Raises:
        InputError: one has pairs and the other single texts, or the tokenizer knows more tokens than the model.
    """
    if isinstance(train.texts[0], tuple) != isinstance(table.texts[0], tuple):
        raise InputError(f"{train.source} and {table.source}: one has pairs of texts, the other single texts")
    encoded = encoder.encode(table.texts)
    highest = max(max(text.ids) for text in encoded)
    if highest >= vocabulary:
        raise InputError(
            f"the tokenizer gives the token {highest}, the model has {vocabulary} of them: they do not fit"
        )
    return encoded


def fit(
    model: PreTrainedModel,
    data: TrainingData,
    settings: TrainingSettings,
    record: TrainingRecord,
    objective: Objective,
    *,
    states: bool = False,
) -> None:
    """Trains `model` in place and leaves it with the weights of its best dev epoch; fills `record`.

    Args:
        objective: the loss terms of a batch; their sum, under `loss`, is minimised.
        states: whether the objective needs hidden states.

    Raises:
        WorkFailedError: the loss or the gradient is no longer a finite number.
    """
    device = choose_device()
    model.to(device)
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    names = input_names(model)
    lengths = [text.tokens for text in data.train.encoded]
    targets = torch.from_numpy(data.train.targets)
    steps_an_epoch = math.ceil(len(lengths) / settings.batch_size)
    total_steps = steps_an_epoch * settings.epochs
    optimizer = _optimizer(model, settings)
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup * total_steps), total_steps)
    record.truncated = {"train": data.train.truncated, "dev": data.dev.truncated}
    record.device = device.type
    best: dict[str, Tensor] = {}
    step = 0
    for epoch in range(1, settings.epochs + 1):
        model.train()
        with progress(f"epoch {epoch} of {settings.epochs}", len(lengths), "rows") as advance:
            for rows in shuffled_batches(lengths, settings.batch_size, generator):
                step += 1
                batch = model_inputs(data.encoder, [data.train.encoded[row] for row in rows], names, device)
                # fp16's range would need loss scaling; bf16 has float32's.
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    output = model(**batch, output_hidden_states=states)
                labelled = [row for row in rows if row < len(targets)]
                terms = objective(output, rows, targets[labelled].to(device))
                values = {name: float(value.detach()) for name, value in terms.items()}
                _check_finite("loss", values["loss"], step, epoch)
                optimizer.zero_grad(set_to_none=True)
                terms["loss"].backward()
                norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
                _check_finite("gradient", norm, step, epoch)
                record.steps.append({"step": step, "lr": schedule.get_last_lr()[0], **values})
                optimizer.step()
                schedule.step()
                advance(len(rows), note=f"loss {values['loss']:.4f}")
        scores = predict(model, data.encoder, data.dev, data.task)
        _check_finite("dev score", float(np.abs(scores).max()), step, epoch)
        metrics = evaluate(data.task, scores, data.dev.targets)
        record.epochs.append({"epoch": epoch, "dev": metrics})
        say(f"  epoch {epoch} of {settings.epochs}: dev {record.metric} {metrics[record.metric]:.4f}")
        if record.best_epoch == 0 or _better(metrics[record.metric], record.best[record.metric], record.metric):
            record.best_epoch = epoch
            best = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    model.load_state_dict(best)
    model.cpu().eval()


def predict(model: PreTrainedModel, encoder: TextEncoder, data: TokenizedSet, task: Task) -> NDArray[np.float32]:
    """Scores `[rows, labels]` of a tokenized table, without dropout."""
    model.eval()
    device = next(model.parameters()).device
    names = input_names(model)
    logits = np.empty((len(data), len(task.labels)), np.float32)
    with torch.inference_mode(), progress("dev", len(data), "rows") as advance:
        for rows in sorted_batches([text.tokens for text in data.encoded], _EVALUATION_BATCH):
            batch = model_inputs(encoder, [data.encoded[row] for row in rows], names, device)
            logits[rows] = model(**batch).logits.float().cpu().numpy()
            advance(len(rows))
    return activate(logits, task.problem_type)


def make_repeatable(seed: int) -> None:
    """Seeds torch and keeps to kernels that give the same bits each time."""
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)


def _optimizer(model: PreTrainedModel, settings: TrainingSettings) -> torch.optim.AdamW:
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in model.named_parameters():
        # Layer norms are vectors; XLNet's attention biases are matrices.
        (plain if parameter.ndim < 2 or "bias" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def _check_finite(what: str, value: float, step: int, epoch: int) -> None:
    if not math.isfinite(value):
        raise WorkFailedError(
            f"the {what} is {value} at step {step} (epoch {epoch}): nothing was kept; lower --learning-rate"
        )


def _better(new: float, old: float, metric: str) -> bool:
    return new < old if metric in LOWER_IS_BETTER else new > old
