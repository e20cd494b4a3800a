"""Understudy's public names, loaded when first used: `from understudy import Engine, relative_attention`."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "BenchSettings": "benchmarks.bench.settings",
    "DistillationSettings": "distill.settings",
    "Engine": "serve.engine",
    "ExportSettings": "export.settings",
    "Prediction": "serve.engine",
    "PretrainingSettings": "distill.pretraining.settings",
    "ScoreSettings": "serve.scoring.settings",
    "TextError": "common.errors",
    "TrainingSettings": "distill.settings",
    "UnderstudyError": "common.errors",
    "bench": "benchmarks.bench.bench",
    "compare": "serve.comparison.comparison",
    "distill": "distill.distillation",
    "export": "export.exporting",
    "finetune": "distill.finetuning",
    "fuse": "kernels.xlnet",
    "pretrain": "distill.pretraining.pretraining",
    "relative_attention": "kernels.relative_attention",
    "relative_attention_packed": "kernels.relative_attention_packed",
    "score": "serve.scoring.score",
    "sweep": "distill.sweep.sweep",
    "unfuse": "kernels.xlnet",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'understudy' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
