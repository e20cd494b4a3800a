"""The training loop that fine-tuning and distilling share: batches, steps, dev metric, best epoch kept."""

from __future__ import annotations

import itertools
import math
import os
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from common.errors import DivergedError
from common.labels import REGRESSION, Task, activate
from common.metrics import LOWER_IS_BETTER, evaluate
from common.progress import progress, say
from common.tokenization import TextEncoder
from distill.batches import TokenizedSet, model_inputs, shuffled_batches, sorted_batches
from distill.checkpoint import Checkpoint
from distill.models import input_names
from distill.processes import ALONE, WHOLE, Processes, Share, launched, own_device
from distill.record import TrainingRecord
from distill.run_state import RunState, run_identity
from distill.settings import TrainingSettings
from distill.training_data import TrainingData
from distill.training_pass import TrainingPass
from distill.used_words import decay_factor, only_used_words

_EVALUATION_BATCH = 64


class StepSettings(Protocol):
    """What AdamW and its schedule are told; see `TrainingSettings`."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


class Objective(nn.Module):
    """What a step minimises. Parameters that it has are trained with the model's, and thrown away after training.

    Attributes:
        needs_states: whether the model is to return its hidden states.
    """

    needs_states = False

    def forward(
        self, output: Any, batch: dict[str, Tensor], rows: list[int], targets: Tensor, share: Share = WHOLE
    ) -> dict[str, Tensor]:
        """The loss terms by name; their weighed sum is `loss`. Those of all parts of a batch add up to the batch's.

        Args:
            output: the model's, of `batch`.
            rows: which training rows the batch holds.
            targets: of those of them that have one.
            share: how much this is of a batch that several processes share.
        """
        raise NotImplementedError


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return own_device()


def fit(
    model: PreTrainedModel,
    data: TrainingData,
    settings: TrainingSettings,
    record: TrainingRecord,
    objective: Objective,
    checkpoint: Checkpoint,
) -> None:
    """Trains `model` in place and leaves it with the weights of its best dev epoch; fills `record`.

    Where a checkpoint of this run is there, the run goes on from it, and ends as it would have without the break.
    Where `accelerate launch` started several processes, each calls this, and trains on its part of every batch.

    Args:
        model: answers in `data.scale`; in the end it answers in the labels' unit.

    Raises:
        InputError: the checkpoint is of another run.
        DivergedError: the loss or the gradient is no longer a finite number.
    """
    device, processes = choose_device(), launched()
    model.to(device)
    objective.to(device)
    record.truncated = {"train": data.train.truncated, "dev": data.dev.truncated}
    record.device = device.type
    own = run_identity(record, model, objective, data.train, data.dev, data.encoder)
    used = only_used_words(model, data.words)
    identity = {**own, "processes": processes.count}
    order = torch.Generator().manual_seed(settings.seed)
    # One stream for all would drop out the same places in every process's part of a batch.
    torch.manual_seed(settings.seed + processes.index)
    epoch_steps = math.ceil(len(data.train) / settings.batch_size)
    optimizer, schedule = optimizer_and_schedule(
        nn.ModuleList([model, objective]), settings, epoch_steps * settings.epochs
    )
    run = RunState(model, objective, optimizer, schedule, order, record, processes)
    forward = TrainingPass(model, objective.needs_states)
    kept = processes.from_first(checkpoint.load(identity) if processes.is_first else None)
    if kept is not None:
        run.load_state_dict(kept)
    while run.epoch <= settings.epochs and not _stops_early(record, settings):
        _train_epoch(run, forward, data, settings, checkpoint)
        _score_epoch(run, data, settings, checkpoint)
        run.next_epoch()
    model.load_state_dict(run.best)
    if used is not None:
        rates = [step["lr"] for step in record.steps[: record.best_epoch * epoch_steps]]
        used.give_back(model, decay_factor(rates, settings.weight_decay))
    model.cpu().eval()
    if data.task.problem_type == REGRESSION:
        _say_if_no_better_than_the_mean(record.best["mse"], data.dev.targets)


def _train_epoch(
    run: RunState, forward: TrainingPass, data: TrainingData, settings: TrainingSettings, checkpoint: Checkpoint
) -> None:
    """The steps of the epoch that `run` stands in, as far as they are not done."""
    model, objective, record, processes = run.model, run.objective, run.record, run.processes
    parameters = [*model.parameters(), *objective.parameters()]
    device = parameters[0].device
    names = input_names(model)
    lengths = [text.tokens for text in data.train.encoded]
    targets = torch.from_numpy(data.train.targets)
    model.train()
    with progress(f"epoch {run.epoch} of {settings.epochs}", len(lengths), "rows") as advance:
        for number, rows in enumerate(shuffled_batches(lengths, settings.batch_size, run.order)):
            if number < run.batches:
                advance(len(rows))
                continue
            own, share = processes.part(rows, lengths)
            length = forward.length(len(own), max(lengths[row] for row in own))
            batch = model_inputs(data.encoder, [data.train.encoded[row] for row in own], names, device, length)
            output = forward(batch)
            labelled = [row for row in own if row < len(targets)]
            terms = objective(output, batch, own, targets[labelled].to(device), share)
            sums = processes.sum(torch.stack([value.detach() for value in terms.values()]))
            run.optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            processes.sum_gradients(parameters)
            norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            # One copy from the device, which waits for all that was asked of it, for everything.
            *found, gradient = torch.cat([sums, norm[None]]).tolist()
            values = dict(zip(terms, found, strict=True))
            for what, value in (("loss", values["loss"]), ("gradient", gradient)):
                if not math.isfinite(value):
                    raise _left_the_numbers(f"{what} is {value}", run, checkpoint, where=data.train.where(rows))
            record.steps.append({"step": run.step + 1, "lr": run.schedule.get_last_lr()[0], **values})
            # Nothing of a pass may be alive where the next one is recorded.
            del output, terms
            run.optimizer.step()
            run.schedule.step()
            run.batches += 1
            advance(len(rows), note=f"loss {values['loss']:.4f}")
            if processes.any(processes.is_first and checkpoint.due, device):
                state = run.state_dict()
                if processes.is_first:
                    checkpoint.save(run.step, state)


def _score_epoch(run: RunState, data: TrainingData, settings: TrainingSettings, checkpoint: Checkpoint) -> None:
    """The dev metrics after an epoch, and its weights where they are the best so far, both in the labels' unit."""
    with data.scale.in_labels_unit(run.model):
        _score(run, data, settings, checkpoint)


def _score(run: RunState, data: TrainingData, settings: TrainingSettings, checkpoint: Checkpoint) -> None:
    record = run.record
    scores = predict(run.model, data.encoder, data.dev, data.task, run.processes)
    highest = float(np.abs(scores).max())
    if not math.isfinite(highest):
        raise _left_the_numbers(f"dev score is {highest}", run, checkpoint)
    metrics = evaluate(data.task, scores, data.dev.targets)
    record.epochs.append({"epoch": run.epoch, "dev": metrics})
    say(f"  epoch {run.epoch} of {settings.epochs}: dev {record.metric} {metrics[record.metric]:.4f}")
    if record.best_epoch == 0 or _better(metrics[record.metric], record.best[record.metric], record.metric):
        record.best_epoch = run.epoch
        run.best = {name: weight.detach().clone() for name, weight in run.model.state_dict().items()}


def predict(
    model: PreTrainedModel, encoder: TextEncoder, data: TokenizedSet, task: Task, processes: Processes = ALONE
) -> NDArray[np.float32]:
    """Scores `[rows, labels]` of a tokenized table, without dropout.

    Args:
        processes: which share the work; each has all scores in the end.
    """
    model.eval()
    device = next(model.parameters()).device
    names = input_names(model)
    logits = torch.zeros(len(data), len(task.labels))
    batches = sorted_batches([text.tokens for text in data.encoded], _EVALUATION_BATCH)
    with torch.inference_mode(), progress("dev", len(data), "rows") as advance:
        for rows in itertools.islice(batches, processes.index, None, processes.count):
            batch = model_inputs(encoder, [data.encoded[row] for row in rows], names, device)
            logits[rows] = model(**batch).logits.float().cpu()
            advance(processes.count * len(rows))
        whole = processes.sum(logits.to(device)).cpu()
    return activate(whole.numpy(), task.problem_type)


def make_repeatable(seed: int) -> None:
    """Seeds torch and keeps to kernels that give the same bits each time, where there are such, as on CPU."""
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Only code that reads what it never wrote would notice; filling takes a tenth of a step's time.
    torch.utils.deterministic.fill_uninitialized_memory = False


def optimizer_and_schedule(
    model: nn.Module, settings: StepSettings, steps: int
) -> tuple[torch.optim.AdamW, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW over all parameters, whose rate rises and falls linearly over `steps`."""
    decayed: list[Tensor] = []
    plain: list[Tensor] = []
    for name, parameter in model.named_parameters():
        # Layer norms are vectors; XLNet's attention biases are matrices.
        (plain if parameter.ndim < 2 or "bias" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    return optimizer, get_linear_schedule_with_warmup(optimizer, round(settings.warmup * steps), steps)


def _stops_early(record: TrainingRecord, settings: TrainingSettings) -> bool:
    if settings.early_stopping is None or len(record.epochs) - record.best_epoch < settings.early_stopping:
        return False
    say(f"  no better dev {record.metric} since epoch {record.best_epoch}: training stops early")
    return True


def _say_if_no_better_than_the_mean(mse: float, targets: NDArray[np.float32]) -> None:
    variance = float(np.var(targets, dtype=np.float64))
    if mse >= variance:
        say(f"Best dev mse {mse:.4g}, variance of the dev labels {variance:.4g}: always saying their mean is as good")


def _left_the_numbers(what: str, run: RunState, checkpoint: Checkpoint, where: str = "") -> DivergedError:
    place = f"step {run.step + 1} (epoch {run.epoch}), on {where}" if where else f"the end of epoch {run.epoch}"
    return DivergedError(f"the {what} at {place}: nothing was written, {checkpoint}; lower --learning-rate")


def _better(new: float, old: float, metric: str) -> bool:
    return new < old if metric in LOWER_IS_BETTER else new > old
