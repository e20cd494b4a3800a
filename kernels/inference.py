"""A classifier's directory as a model for inference: packed where its family can be, else padded, in float32."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from kernels import packed_classifier
from kernels.packed_classifier import PackedClassifier
from kernels.xlnet import fuse


def load_inference(
    directory: Path, max_length: int, device: torch.device | None = None
) -> PackedClassifier | PreTrainedModel:
    """The model of a directory in the Hub's layout, without pickle and without a network.

    Args:
        max_length: tokens of the longest text that will come.

    Raises:
        ValueError: the weights are not those of the config; the message names the first that does not fit.
        Exception: transformers raises many kinds for files that are not what they say.
    """
    model, report = AutoModelForSequenceClassification.from_pretrained(
        directory,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told below, by name
    )
    for problem in ("missing", "unexpected", "mismatched"):
        found = sorted(map(str, report[f"{problem}_keys"]))
        if found:
            raise ValueError(f"{problem} weights: {found[0]}")
    model = model.to(device or "cpu").eval()
    if packed_classifier.takes(model):
        return PackedClassifier(model, max_length)
    if model.config.model_type == "xlnet":
        model.config.use_mems_eval = False
        fuse(model)
    padded: PreTrainedModel = model
    return padded
