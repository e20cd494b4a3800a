"""A transformers classifier over texts that lie one behind the other, without padding.

Every layer but attention works on single tokens, so a batch without padding is one long row of tokens: attention keeps
the texts apart (`relative_attention_packed`) and the head gets one position a text. The model stays transformers' own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

from kernels.dense import use_dense
from kernels.relative_attention_packed import relative_attention_packed
from kernels.xlnet import freeze_positions, fuse

ATTENTION = "understudy_packed"
# Families of transformers whose attention can be exchanged and whose other layers look at one token at a time.
# MPNet, DeBERTa and ConvBERT have attention of their own kind; MobileBERT's embedding looks at a token's neighbours.
FAMILIES = ("albert", "bert", "camembert", "distilbert", "electra", "roberta", "xlm-roberta", "xlnet")


def takes(model: PreTrainedModel) -> bool:
    """Whether it is a sequence classifier that can be run packed: by its family, with attention in both directions."""
    config = model.config
    if not type(model).__name__.endswith("ForSequenceClassification") or getattr(config, "is_decoder", False):
        return False
    if config.model_type == "xlnet" and (config.attn_type != "bi" or config.bi_data or config.summary_type != "last"):
        return False
    return config.model_type in FAMILIES


class PackedClassifier(nn.Module):
    """A sequence classifier over packed texts, for inference. It takes the model and its config over: use both through
    here only.

    Args:
        model: a classifier of one of `FAMILIES`, on the device and in the dtype that it will run in.
        max_length: tokens of the longest text that will come; XLNet's positions are projected for it once.
    """

    def __init__(self, model: PreTrainedModel, max_length: int):
        super().__init__()
        if not takes(model):
            raise ValueError(f"model: this {type(model).__name__} cannot be run packed")
        if getattr(model.base_model, "chooses_positions", False):
            raise ValueError("model: it belongs to a PackedClassifier already")
        self.model = use_dense(model.eval())
        self.reads_last = model.config.model_type == "xlnet"
        if self.reads_last:
            model.config.use_mems_eval = model.config.output_attentions = False
            freeze_positions(fuse(model), max_length)
        else:
            model.set_attn_implementation(ATTENTION)
        # Of the encoder's many positions the head is to see one a text, as if that were the whole text.
        model.base_model.register_forward_hook(self._choose, with_kwargs=True)
        model.base_model.chooses_positions = True

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, cu_seqlens: Tensor, max_length: int) -> Tensor:
        """Logits `[texts, labels]`; what an empty text gets means nothing.

        Args:
            input_ids: int64 `[tokens]`.
            token_type_ids: int64 `[tokens]`, or None for a family that tells no segments apart.
            cu_seqlens: int32 `[texts + 1]`, see `relative_attention_packed`.
            max_length: of the longest text, or more.
        """
        given: dict[str, Any] = {"cu_seq_lens_q": cu_seqlens, "max_length_q": max_length}
        if token_type_ids is not None:
            given["token_type_ids"] = token_type_ids[None]
        if not self.reads_last:
            given["position_ids"] = self._positions(input_ids, cu_seqlens)[None]
        logits: Tensor = self.model(input_ids=input_ids[None], **given, return_dict=True).logits
        return logits

    def _positions(self, input_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Each token's position in its text, `[tokens]`, as the family counts."""
        places = torch.arange(input_ids.shape[0], device=input_ids.device)
        text = torch.searchsorted(cu_seqlens[1:].contiguous(), places.to(cu_seqlens.dtype), right=True)
        starts = cu_seqlens[text]
        padding = getattr(getattr(self.model.base_model, "embeddings", None), "padding_idx", None)
        if padding is None:
            counted = places - starts
        else:
            # RoBERTa counts from the padding id on, and leaves out tokens that carry it.
            real = (input_ids != padding).long()
            before = nn.functional.pad(real.cumsum(0), (1, 0))
            counted = (before[1:] - before[starts.long()]) * real + padding
        # Rows behind the last text belong to none and may count too far.
        return torch.where(text < cu_seqlens.shape[0] - 1, counted, 0)

    def _choose(self, _encoder: nn.Module, _arguments: Any, given: dict[str, Any], output: Any) -> Any:
        states = output.last_hidden_state[0]
        ends = given["cu_seq_lens_q"].long()
        places = (ends[1:] - 1).clamp_min(0) if self.reads_last else ends[:-1].clamp_max(states.shape[0] - 1)
        output["last_hidden_state"] = states[places][:, None]
        if output.get("pooler_output") is not None:
            output["pooler_output"] = self._pooled(output["last_hidden_state"])
        return output

    def _pooled(self, chosen: Tensor) -> Tensor:
        encoder = self.model.base_model
        # ALBERT's pooler is a bare layer that leaves the choice of the position and the activation to its encoder.
        bare = getattr(encoder, "pooler_activation", None)
        pooled: Tensor = encoder.pooler(chosen) if bare is None else bare(encoder.pooler(chosen[:, 0]))
        return pooled


def _attention(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: None, *, scaling: float | None = None,
    cu_seq_lens_q: Tensor, max_length_q: int, **_options: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Attention as transformers calls it: `[1, heads, tokens, d_head]` each, to `[1, tokens, heads, d_head]`."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return relative_attention_packed(q, k, v, cu_seq_lens_q, max_length_q, scale=scaling)[None], None


def _no_mask(*_arguments: Any, **_options: Any) -> None:
    """Nothing is padded, so nothing is hidden."""


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
