"""What pretraining starts from: a model's directory, a config of the user's, or a small built-in one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, BertConfig, BertForMaskedLM, PreTrainedModel, XLNetConfig, XLNetLMHeadModel

from common.errors import InputError, first_line
from common.files import read_json
from common.progress import say
from common.tokenization import max_positions
from distill.models import load_config, load_tokenizer, prepared
from distill.pretraining.settings import PretrainingSettings
from distill.sources import Source, find_model

FAMILIES = {"masked": "bert", "infoword": "bert", "permutation": "xlnet"}
BUILT_IN_VOCABULARY = 8_000
_MODELS: dict[str, type[PreTrainedModel]] = {"bert": BertForMaskedLM, "xlnet": XLNetLMHeadModel}
_SPECIAL = ("cls_token", "sep_token", "pad_token", "mask_token", "unk_token")


@dataclass(frozen=True)
class Start:
    """
    Attributes:
        config: transformers', of the objective's family; where a tokenizer is to be trained, its `vocab_size` is how
            many tokens that may have.
        source: the model whose weights are taken; None for random ones.
        tokenizer: transformers'; None where one is to be trained.
    """

    config: Any
    source: Source | None
    tokenizer: Any | None

    @property
    def family(self) -> str:
        return str(self.config.model_type)


def find_start(settings: PretrainingSettings, model: str | None, config: Path | None, tokenizer: Path | None) -> Start:
    """Looks up what the user named, and checks that it goes together.

    Args:
        model: a directory or a name to go on from, with its own tokenizer.
        config: a config.json, for random weights; the built-in one where both are None.
        tokenizer: a directory, for random weights.

    Raises:
        InputError: they cannot be read, exclude each other, or are not of the objective's family.
    """
    if model is not None:
        for flag, given in (("--config", config), ("--tokenizer", tokenizer), ("--vocabulary", settings.vocabulary)):
            if given is not None:
                raise InputError(f"--model and {flag} exclude each other: the model has its own")
        source = find_model(model)
        own = load_config(source)
        _check_family(settings, own.model_type, source.name)
        start = Start(own, source, load_tokenizer(source))
    else:
        if tokenizer is not None and settings.vocabulary is not None:
            raise InputError("--tokenizer and --vocabulary exclude each other: the tokenizer has its own")
        start = Start(
            _built_in(settings) if config is None else _read(config, settings),
            None,
            None if tokenizer is None else load_tokenizer(Source(tokenizer.name, tokenizer, "")),
        )
    if start.tokenizer is not None:
        _check_tokenizer(start.tokenizer, start.config, built_in=config is None and model is None)
    limit = max_positions(start.config.to_dict())
    if limit is not None and settings.max_length > limit:
        raise InputError(f"max_length {settings.max_length:,} is more than the model's {limit:,} positions")
    return start


def make_model(start: Start, tokenizer: Any, seed: int) -> PreTrainedModel:
    """The family's model with its language-model head, in float32 on CPU.

    Args:
        tokenizer: the start's, or one that was trained for it.
        seed: of random weights.

    Raises:
        InputError: the files are no such model or lack weights, or the config's sizes do not go together.
    """
    torch.manual_seed(seed)
    if start.source is not None:
        model = _load(start.source, start.config)
    else:
        config = start.config
        config.vocab_size = max(len(tokenizer), config.vocab_size if start.tokenizer is not None else 0)
        for name in ("pad", "bos", "eos"):
            setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
        try:
            model = _MODELS[start.family](config)
        except Exception as error:  # sizes that do not go together fail in many ways
            raise InputError(f"no model can be made by this config: {first_line(error)}") from None
    # A classifier's labels are not the encoder's.
    model.config.id2label, model.config.label2id = {0: "LABEL_0", 1: "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1}
    model.config.problem_type = None
    return prepared(model)


def _built_in(settings: PretrainingSettings) -> Any:
    vocabulary = settings.vocabulary or BUILT_IN_VOCABULARY
    if FAMILIES[settings.objective] == "xlnet":
        return XLNetConfig(vocab_size=vocabulary, d_model=256, n_layer=4, n_head=4, d_inner=1024)
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=max(512, settings.max_length),
    )


def _read(path: Path, settings: PretrainingSettings) -> Any:
    values = read_json(path)
    kind = values.pop("model_type", None)
    _check_family(settings, kind, str(path))
    if settings.vocabulary is not None:
        values["vocab_size"] = settings.vocabulary
    try:
        return AutoConfig.for_model(kind, **values)
    except Exception as error:  # transformers raises many kinds for values that will not do
        raise InputError(f"{path} is no config of a model: {first_line(error)}") from None


def _check_family(settings: PretrainingSettings, kind: Any, name: str) -> None:
    family = FAMILIES[settings.objective]
    if kind != family:
        raise InputError(f"the {settings.objective} objective trains models of type '{family}'; {name} is of '{kind}'")


def _check_tokenizer(tokenizer: Any, config: Any, *, built_in: bool) -> None:
    """
    Args:
        built_in: whether the config's vocabulary is to be the tokenizer's.
    """
    lacking = [name for name in _SPECIAL if getattr(tokenizer, name) is None]
    if lacking:
        raise InputError(f"the tokenizer has no {lacking[0].replace('_', ' ')}, which pretraining needs")
    left = tokenizer.padding_side == "left"
    if left != (config.model_type == "xlnet"):
        raise InputError(
            f"the tokenizer pads on the {tokenizer.padding_side}, which is not as models of type "
            f"'{config.model_type}' read: they do not fit"
        )
    if built_in:
        config.vocab_size = len(tokenizer)
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"the tokenizer has {len(tokenizer):,} tokens, the model {config.vocab_size:,}: they do not fit"
        )


def _load(source: Source, config: Any) -> PreTrainedModel:
    kind = _MODELS[config.model_type]
    try:
        model, report = kind.from_pretrained(
            source.path,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        raise InputError(f"{source.path} is no model that can be loaded: {first_line(error)}") from None
    fresh = sorted(report["missing_keys"])
    lost = [name for name in fresh if name.startswith(f"{model.base_model_prefix}.")]
    # A classifier has no use for the embedding that stands in a target's place, and its files may lack it.
    lost = [name for name in lost if not name.endswith("mask_emb")]
    if lost:
        raise InputError(f"{source.path} does not hold the weights of a {kind.__name__}: {lost[0]} is not there")
    if fresh:
        say(f"{source.name} has no language-model head; it starts fresh")
    return model
