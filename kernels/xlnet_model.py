"""XLNet's model, which `kernels.xlnet` puts in the place of transformers' own; `kernels.xlnet_attention` is inside."""

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetModelOutput

from kernels.xlnet_attention import Packing

logger = logging.getLogger(__name__)


class FusedXLNetModel(XLNetModel):
    """XLNetModel with masks, segments and positions in the form the op takes, none of them larger than it need be.

    Attributes:
        last_only: whether the last layer is computed for each text's last token alone, which is all that a classifier's
            head reads; `last_hidden_state` then is `[batch, 1, d_model]`. What a text gives then does not depend on how
            much padding there is or on which side, to the last bit where the matmuls do not. Not with two streams,
            packed texts, memory, `bi_data`, embeddings for ids or hidden states to return.
    """

    last_only = False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mems: Any = None,
        perm_mask: Tensor | None = None,
        target_mapping: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        input_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_mems: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...] | XLNetModelOutput:
        """XLNetModel's arguments and results, all of them; see there."""
        config = self.config
        if config.output_attentions if output_attentions is None else output_attentions:
            if kwargs.get("cu_seq_lens_q") is not None:
                raise ValueError("output_attentions: packed texts run on the op, which holds no probabilities")
            logger.info("output_attentions: the stock attention runs, because the op holds no probabilities")
            return super().forward(
                input_ids, attention_mask, mems, perm_mask, target_mapping, token_type_ids, input_mask, inputs_embeds,
                use_mems, output_attentions, output_hidden_states, return_dict, **kwargs,
            )  # fmt: skip
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("input_ids: give either input_ids or inputs_embeds")
        if input_mask is not None and attention_mask is not None:
            raise ValueError("input_mask: give either input_mask (1 for padding) or attention_mask (0 for padding)")
        if use_mems is None:
            use_mems = config.use_mems_train if self.training else config.use_mems_eval
        keep_hidden = config.output_hidden_states if output_hidden_states is None else output_hidden_states

        if attention_mask is not None:
            input_mask = attention_mask.float() < 1
        others = (mems, perm_mask, target_mapping, inputs_embeds, kwargs.get("cu_seq_lens_q"))
        places = None
        if self.last_only and not (use_mems or keep_hidden or self.bi_data) and all(x is None for x in others):
            input_ids, token_type_ids, input_mask = _text_first(input_ids, token_type_ids, input_mask)
            places = (torch.arange(input_ids.shape[1], device=input_ids.device) * ~input_mask).amax(dim=1)
        embedded = self.word_embedding(input_ids) if inputs_embeds is None else inputs_embeds
        h = self.dropout(embedded.transpose(0, 1))
        qlen, batch = h.shape[:2]
        memories = [None] * len(self.layer) if mems is None else mems
        mlen = 0 if memories[0] is None else memories[0].shape[0]
        mask = self._mask(input_mask, perm_mask, qlen, mlen)
        segments = None
        if token_type_ids is not None:
            token_type_ids = token_type_ids.long()
            segments = token_type_ids, nn.functional.pad(token_type_ids, (mlen, 0))
        packing = self._packing(kwargs, batch, mems, perm_mask, target_mapping, input_mask)
        if packing is not None:
            mask = packing
        lengths = (qlen, qlen + mlen) if packing is None else (packing.max_length,) * 2
        positions = None
        if any(layer.rel_attn.frozen_for(*lengths) is None for layer in self.layer):
            positions = self.dropout(self.relative_positions(lengths[0], lengths[1], batch))
        g = None
        if target_mapping is not None:
            target_mapping = target_mapping.permute(1, 2, 0)
            g = self.dropout(self.mask_emb.expand(target_mapping.shape[0], batch, -1))

        new_mems: list[Tensor] = []
        hidden: list[Tensor] = []
        for layer, memory in zip(self.layer, memories, strict=True):
            if use_mems:
                new_mems.append(self.cache_mem(h, memory))
            hidden += [h] if g is None else [h, g]
            if places is not None and layer is self.layer[-1]:
                h = layer.ff(layer.rel_attn(h, None, mask, None, positions, segments, places=places)[0])
                break
            h, g = layer(h, g, mask, mask, positions, segments, mems=memory, target_mapping=target_mapping)[:2]
        hidden += [h] if g is None else [h, g]

        output = XLNetModelOutput(
            last_hidden_state=self.dropout(h if g is None else g).transpose(0, 1).contiguous(),
            mems=tuple(new_mems) if use_mems else None,
            hidden_states=tuple(x.transpose(0, 1).contiguous() for x in hidden) if keep_hidden else None,
        )
        return output if (config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def relative_positions(self, qlen: int, klen: int, batch: int) -> Tensor:
        """Sinusoids of the relative positions klen … 1 − qlen, `[qlen + klen, groups, d_model]`.

        One group, or with `bi_data` two: forward and reversed, for the two halves of the batch (XLNet §2.5 and
        Transformer-XL's encoding: [sin, cos] of position / 10000^(2k / d_model)).

        Raises:
            ValueError: `bi_data` with an odd batch.
        """
        position = klen - torch.arange(qlen + klen, device=self.device)
        if self.bi_data:
            if batch % 2:
                raise ValueError(f"input_ids: bi_data reverses half of the batch, which is odd ({batch})")
            position = torch.stack((position, -position), dim=-1)
        else:
            position = position[:, None]
        if self.clamp_len > 0:
            position = position.clamp(-self.clamp_len, self.clamp_len)
        exponent = torch.arange(0, self.d_model, 2.0, device=self.device) / self.d_model
        angle = position[..., None].float() * (1 / torch.pow(10000, exponent))
        return torch.cat([angle.sin(), angle.cos()], dim=-1)

    def _packing(self, options: dict[str, Any], batch: int, *others: Any) -> Packing | None:
        """The texts' places where `cu_seq_lens_q` and `max_length_q`, transformers' names for them, are given."""
        if options.get("cu_seq_lens_q") is None:
            return None
        if batch != 1 or any(x is not None for x in others) or self.attn_type != "bi" or self.bi_data:
            raise ValueError(
                "cu_seq_lens_q: packed texts are a batch of one, without padding, memory, perm_mask, target_mapping, "
                "bi_data or causal attention"
            )
        if options.get("max_length_q") is None:
            raise ValueError("max_length_q: needed with cu_seq_lens_q, the length of the longest text")
        return Packing(options["cu_seq_lens_q"], options["max_length_q"])

    def _mask(self, padding: Tensor | None, perm_mask: Tensor | None, qlen: int, mlen: int) -> Tensor | None:
        """The op's mask: of keys where padding is all there is, of pairs otherwise; memory is always visible."""
        pairs = None
        if perm_mask is not None:
            pairs = nn.functional.pad(perm_mask > 0, (mlen, 0))
        if self.attn_type == "uni":
            ahead = self.create_mask(qlen, mlen)[None] > 0
            pairs = ahead if pairs is None else pairs | ahead
        elif self.attn_type != "bi":
            raise ValueError(f"attn_type: expected 'bi' or 'uni', got {self.attn_type!r}")
        keys = nn.functional.pad(padding > 0, (mlen, 0)) if padding is not None else None
        if pairs is None or keys is None:
            return keys if pairs is None else pairs
        return pairs | keys[:, None]


def _text_first(
    input_ids: Tensor, token_type_ids: Tensor | None, padding: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Ids, segments and padding (bool), moved behind the text, `[batch, length]` each.

    The sums of an attention then begin with the text: padding, of which they are full of zeros, moves none of them.

    Args:
        padding: as `input_mask`.
    """
    if padding is None:
        return input_ids, token_type_ids, torch.zeros_like(input_ids, dtype=torch.bool)
    padding, length = padding > 0, input_ids.shape[1]
    start = ((~padding).cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
    order = start + torch.arange(length, device=input_ids.device)
    order = torch.where(order < length, order, order - length)
    segments = None if token_type_ids is None else token_type_ids.gather(1, order)
    return input_ids.gather(1, order), segments, padding.gather(1, order)


# `save_pretrained` writes the class name into config.json, where only transformers' own name is of use.
FusedXLNetModel.__name__ = XLNetModel.__name__
