"""Classifiers in the Hub's layout: loaded without pickle, taken apart into students, saved with their tokenizer."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from common.errors import InputError, first_line, memory_shortage
from common.files import read_json, write_json
from common.labels import Task
from common.progress import say
from common.tokenization import HEAD_READS_FIRST, TextEncoder, max_positions, pads_left
from distill.sources import Source
from kernels.dense import use_dense
from kernels.xlnet import fuse

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# Each tried; XLNet's head reads the last position.
FAMILIES = (*HEAD_READS_FIRST, "xlnet")


def load_classifier(source: Source, config: Any) -> PreTrainedModel:
    """A trained sequence classifier, in float32 on CPU.

    Raises:
        InputError: the files are no such model, or lack any of its weights.
    """
    model, fresh = _load(source, config)
    if fresh:
        raise InputError(f"{source.path} is no trained classifier: its files lack {min(fresh)}")
    return model


def load_with_fresh(source: Source, config: Any) -> tuple[PreTrainedModel, frozenset[str]]:
    """An encoder with the head that the config asks for, in float32 on CPU; what of the head the files lack is fresh.

    Returns:
        The model, and the names of the weights that are fresh.

    Raises:
        InputError: the files are no such model, or lack weights of the encoder.
    """
    model, fresh = _load(source, config)
    _check_encoder(source, model, fresh)
    return model, fresh


def untrained_classifier(config: Any) -> PreTrainedModel:
    """A classifier of random weights, drawn from torch's generator, in float32 on CPU."""
    return prepared(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32))


def load_config(source: Source) -> Any:
    """The model's transformers config, for float32.

    Raises:
        InputError: it cannot be read, or is of a family that is not supported.
    """
    try:
        config = AutoConfig.from_pretrained(source.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds for a file that is not what it says
        raise InputError(f"{source.path}: config.json cannot be read: {first_line(error)}") from None
    if config.model_type not in FAMILIES:
        raise InputError(
            f"{source.path}: models of type '{config.model_type}' are not supported; these are: {', '.join(FAMILIES)}"
        )
    if config.model_type == "xlnet" and config.summary_type != "last":
        raise InputError(f"{source.path}: summary_type '{config.summary_type}' is not supported")
    # A config saved in half precision would make a student of half-precision weights.
    config.dtype = torch.float32
    return config


def load_tokenizer(source: Source) -> Any:
    """The model's transformers tokenizer, with the padding and truncation of its file set aside.

    Raises:
        InputError: there is none, or no fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        if not (source.path / "tokenizer.json").is_file():
            raise InputError(f"{source.path}: a fast tokenizer is needed (tokenizer.json)") from None
        raise InputError(f"{source.path}: the tokenizer cannot be loaded: {first_line(error)}") from None
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{source.path}: a fast tokenizer is needed (tokenizer.json)")
    file = source.path / "tokenizer.json"
    if file.is_file():
        _take_from_file(tokenizer.backend_tokenizer, Tokenizer.from_file(str(file)))
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def _take_from_file(backend: Tokenizer, file: Tokenizer) -> None:
    """Makes a tokenizer read texts as its file says.

    transformers 5 builds normalizer, pre-tokenizer and model anew, as the model's class has them by default, and loses
    what else the file has (of a BERT's: an NFKC, a limit of a word's characters). As with transformers 4, BERT's own
    normalizer and the pre-tokenizer of bytes alone are left to the settings beside the file, such as `do_lower_case`.
    """
    if not all(isinstance(each.normalizer, normalizers.BertNormalizer) for each in (backend, file)):
        backend.normalizer = file.normalizer
    if not all(isinstance(each.pre_tokenizer, pre_tokenizers.ByteLevel) for each in (backend, file)):
        backend.pre_tokenizer = file.pre_tokenizer
    backend.model = file.model
    if file.post_processor is not None:
        backend.post_processor = file.post_processor


def make_encoder(tokenizer: Any, config: Any, max_length: int) -> TextEncoder:
    """The tokenizing path that serving uses too, from a transformers tokenizer.

    Args:
        max_length: tokens; lowered to the model's number of positions.
    """
    limit = max_positions(config.to_dict())
    return TextEncoder(
        tokenizer.backend_tokenizer,
        max_length=min(max_length, limit) if limit else max_length,
        pad_id=tokenizer.pad_token_id or 0,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_left=pads_left(config.model_type, tokenizer.padding_side),
        cut_left=tokenizer.truncation_side == "left",
    )


def input_names(model: PreTrainedModel) -> tuple[str, ...]:
    """What the model reads of a batch; `token_type_ids` only where its family tells segments apart."""
    accepted = inspect.signature(model.forward).parameters
    segments = getattr(model.config, "type_vocab_size", 0) > 1 or model.config.model_type == "xlnet"
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in accepted and segments:
        names.append("token_type_ids")
    return tuple(names)


def head_position(config: Any) -> int:
    """Which position the head reads: the first ([CLS]), or XLNet's last."""
    return -1 if config.model_type == "xlnet" else 0


def output_layer(model: PreTrainedModel) -> nn.Linear:
    """The last layer of a classifier's head, which gives the logits."""
    layer: nn.Linear = model.get_submodule(_output_name(model))
    return layer


def has_fresh_output(model: PreTrainedModel, fresh: frozenset[str]) -> bool:
    """Whether the last layer of the head is among the weights that are fresh, as `load_with_fresh` names them."""
    return f"{_output_name(model)}.weight" in fresh


def refresh_output(model: PreTrainedModel) -> None:
    """Draws the last layer of the head anew from torch's generator, as transformers does where a head does not fit."""
    layer = output_layer(model)
    with torch.no_grad():
        layer.weight.normal_(std=model.config.initializer_range)
        layer.bias.zero_()


def layer_prefix(model: nn.Module, count: int) -> str:
    """The dotted name of the one list that holds the model's `count` layers.

    Raises:
        InputError: the model shares its layers or keeps them in no list of that length.
    """
    found = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == count]
    found = [name for name in found if name.rsplit(".", 1)[-1] in ("layer", "layers")]
    if len(found) != 1:
        raise InputError(
            f"{type(model).__name__} keeps its {count} layers in no list of its own (are they shared?): "
            f"it cannot be taken apart into a student"
        )
    return found[0]


def prepared(model: PreTrainedModel) -> PreTrainedModel:
    """Dense layers by the faster product; an XLNet on the project's own attention, without the memory that only longer
    documents need."""
    if model.config.model_type == "xlnet":
        model.config.use_mems_eval = model.config.use_mems_train = False
        fuse(model)
    return use_dense(model)


def save_model(model: PreTrainedModel, tokenizer: Any, directory: Path, max_length: int) -> None:
    """Writes the Hub's layout: config, safetensors weights, tokenizer with its length limit."""
    model.save_pretrained(directory)
    save_tokenizer(tokenizer, directory, max_length)


def save_tokenizer(tokenizer: Any, directory: Path, max_length: int) -> None:
    """Writes the tokenizer with its length limit, in words that transformers 4 knows too."""
    tokenizer.model_max_length = max_length
    # What the file that the tokenizer came from once padded and truncated to is not this model's setting.
    for name in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):
        tokenizer.init_kwargs.pop(name, None)
    tokenizer.save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    settings = read_json(path)
    again = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    # A class that would not read texts as the file says gives way to the one that does nothing but read the file.
    if settings.get("tokenizer_class") == "TokenizersBackend" or _content(again) != _content(tokenizer):
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    write_json(path, settings)


def _content(tokenizer: Any) -> dict[str, Any]:
    """All that decides how a text is read."""
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return {name: value for name, value in content.items() if name not in ("padding", "truncation")}


def set_task(config: Any, task: Task) -> None:
    """Writes the task into a config: problem_type, number and order of labels."""
    config.num_labels = len(task.labels)
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {label: index for index, label in enumerate(task.labels)}
    config.problem_type = task.problem_type


def _output_name(model: PreTrainedModel) -> str:
    inside = f"{model.base_model_prefix}."
    return [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == model.config.num_labels and not name.startswith(inside)
    ][-1]


def _load(source: Source, config: Any) -> tuple[PreTrainedModel, frozenset[str]]:
    """The model and the names of the weights that its files lack."""
    config = config if config is not None else load_config(source)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source.path,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            # A head for other labels is replaced; what else does not fit is refused below.
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        if memory_shortage(error) is not None:
            raise
        raise InputError(f"{source.path} is no text classifier that can be loaded: {first_line(error)}") from None
    mismatched = {entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]}
    return prepared(model), frozenset(report["missing_keys"]) | mismatched


def _check_encoder(source: Source, model: PreTrainedModel, fresh: frozenset[str]) -> None:
    prefix = f"{model.base_model_prefix}."
    inside = sorted(name for name in fresh if name.startswith(prefix))
    lost = [name for name in inside if ".pooler." not in name]
    if lost:
        raise InputError(f"{source.path} does not hold the weights of a {type(model).__name__}: {lost[0]} is not there")
    if inside:
        say(f"{source.name} has no pooler; it starts fresh")
