"""The modules that `kernels.xlnet` puts in the places of transformers' own: XLNet's model and its attention layer.

Three things differ from the stock model, none of them in what it computes without dropout: with positional dropout
in training, one dropout pattern serves all items of a batch (the positions are projected once, not once per item);
attention dropout draws other random numbers; in float16 a hidden key weighs nothing, where the stock mask of −65500
leaves it a trace.
"""

import logging
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetModelOutput, XLNetRelativeAttention

from kernels.dense import linear
from kernels.relative_attention import relative_attention
from kernels.relative_attention_packed import relative_attention_packed

logger = logging.getLogger(__name__)


class Packing(NamedTuple):
    """Texts one behind the other in a batch of one; see `relative_attention_packed`."""

    cu_seqlens: Tensor
    max_length: int


class FrozenPositions(NamedTuple):
    """Projected positions of a layer, `[heads, 2 · length, d_head]`, and the weights that made them, as they were then.

    A conversion to another dtype or device puts other numbers into the same parameter, at another address.
    """

    projected: Tensor
    weight: Tensor
    version: int
    address: int

    def made_from(self, weight: Tensor) -> bool:
        """Whether these are the positions of `weight` as it is now."""
        return weight is self.weight and (weight._version, weight.data_ptr()) == (self.version, self.address)


class FusedRelativeAttention(XLNetRelativeAttention):
    """XLNet's attention layer on the op. It is called by the stock XLNetLayer, which passes its arguments through."""

    frozen: FrozenPositions | None = None

    def freeze_positions(self, sinusoids: Tensor) -> None:
        """Keep the projection of `sinusoids`, `[2 · length, 1, d_model]`, unless the weights count no versions."""
        if self.r.is_inference():
            return
        with torch.no_grad(), torch.autocast(self.r.device.type, enabled=False):
            projected = self._project(sinusoids.to(self.r.dtype), self.r)[0].contiguous()
        self.frozen = FrozenPositions(projected, self.r, self.r._version, self.r.data_ptr())

    def train(self, mode: bool = True) -> Self:
        """As in PyTorch; training makes frozen positions stale, also with optimizers that count no versions."""
        if mode:
            self.frozen = None
        return super().train(mode)

    def forward(
        self,
        h: Tensor,
        g: Tensor | None,
        attn_mask_h: Any,
        attn_mask_g: Tensor | None,
        r: Tensor | None,
        seg_mat: Any,
        mems: Tensor | None = None,
        target_mapping: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Any, ...]:
        """The stock layer's arguments, but for three that FusedXLNetModel gives another form.

        Args:
            h: content stream, `[qlen, batch, d_model]`.
            g: query stream, `[targets or qlen, batch, d_model]`, or None.
            attn_mask_h, attn_mask_g: the op's bool `mask`, or None; for packed texts the first is their `Packing`.
            r: sinusoids, `[qlen + klen, groups, d_model]`; None where every layer's positions are frozen.
            seg_mat: segment ids of queries and keys, `([batch, qlen], [batch, klen])`, or None.
            mems: `[mlen, batch, d_model]`, or None.
            target_mapping: `[targets, qlen, batch]`, or None.
            output_attentions: True comes from the stock model's forward, with the stock arguments' forms.

        Returns:
            The two streams' outputs, the second None without `g`.
        """
        if output_attentions:
            return super().forward(h, g, attn_mask_h, attn_mask_g, r, seg_mat, mems, target_mapping, True)
        keys = torch.cat([mems, h]) if mems is not None and mems.dim() > 1 else h
        k, v = self._project(keys, self.k), self._project(keys, self.v)
        packing = attn_mask_h if isinstance(attn_mask_h, Packing) else None
        lengths = (h.shape[0], keys.shape[0]) if packing is None else (packing.max_length,) * 2
        positions = self.frozen_for(*lengths) if r is None else self._project(r.to(self.r.dtype), self.r)
        assert positions is not None

        def attend(queries: Tensor, mask: Tensor | None, see_self: bool) -> Tensor:
            terms = self._terms(queries.dtype, segments=seg_mat is not None)
            given = positions.to(queries.dtype)
            if packing is not None:
                rows = [x[0].transpose(0, 1) for x in (queries, k, v)]
                ids = None if seg_mat is None else seg_mat[0][0]
                return relative_attention_packed(
                    rows[0], rows[1], rows[2], packing.cu_seqlens, packing.max_length, given[0], **terms, segments=ids,
                    scale=self.scale,
                )[:, None]  # fmt: skip
            query_ids, key_ids = (None, None) if seg_mat is None else seg_mat
            out = relative_attention(
                queries, k, v, given, **terms, query_segments=query_ids, key_segments=key_ids,
                mask=mask, see_self=see_self, scale=self.scale, dropout=self.dropout.p if self.training else 0.0,
            )  # fmt: skip
            return out.permute(2, 0, 1, 3)

        out_h = self.post_attention(h, attend(self._project(h, self.q), attn_mask_h, True))
        if g is None:
            return out_h, None
        queries = self._project(g, self.q)
        if target_mapping is None:
            return out_h, self.post_attention(g, attend(queries, attn_mask_g, False))
        queries = torch.einsum("bnmd,mlb->bnld", queries, target_mapping)
        attended = torch.einsum("lbnd,mlb->mbnd", attend(queries, attn_mask_g, False), target_mapping)
        return out_h, self.post_attention(g, attended)

    def _terms(self, dtype: torch.dtype, *, segments: bool) -> dict[str, Tensor]:
        """The layer's biases, and its segment embedding where there are segments, by the op's names."""
        named = {"content_bias": self.r_w_bias, "position_bias": self.r_r_bias}
        if segments:
            named |= {"segment_bias": self.r_s_bias, "segment_embedding": self.seg_embed}
        return {name: value.to(dtype) for name, value in named.items()}

    def frozen_for(self, qlen: int, klen: int) -> Tensor | None:
        """Frozen positions of these lengths, `[1, heads, qlen + klen, d_head]`; None where they may not stand in."""
        frozen = self.frozen
        if frozen is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        length = frozen.projected.shape[1] // 2
        if max(qlen, klen) > length or not frozen.made_from(self.r):
            return None
        return frozen.projected[None, :, length - klen : length + qlen]

    def post_attention(self, h: Tensor, attn_vec: Tensor, residual: bool = True) -> Tensor:
        """The stock method as one matmul, which ONNX runtimes take better than an einsum over two axes."""
        out = self.dropout(linear(attn_vec.flatten(2), self.o.flatten(1)))
        return self.layer_norm(out + h if residual else out)

    @staticmethod
    def _project(x: Tensor, weight: Tensor) -> Tensor:
        """`[length, batch, d_model]` times `[d_model, heads, d_head]`, as a view `[batch, heads, length, d_head]`."""
        return linear(x, weight.flatten(1).T).unflatten(-1, weight.shape[1:]).permute(1, 2, 0, 3)


class FusedXLNetModel(XLNetModel):
    """XLNetModel with masks, segments and positions in the form the op takes, none of them larger than it need be.

    Attributes:
        last_only: whether the last layer is computed for the last position alone, which is all that a classifier's head
            reads; `last_hidden_state` then is `[batch, 1, d_model]`. Not with two streams, packed texts, memory to keep
            or hidden states to return.
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

        embedded = self.word_embedding(input_ids) if inputs_embeds is None else inputs_embeds
        h = self.dropout(embedded.transpose(0, 1))
        qlen, batch = h.shape[:2]
        memories = [None] * len(self.layer) if mems is None else mems
        mlen = 0 if memories[0] is None else memories[0].shape[0]
        if attention_mask is not None:
            input_mask = attention_mask.float() < 1
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

        last_only = self.last_only and g is None and packing is None and not use_mems and not keep_hidden
        new_mems: list[Tensor] = []
        hidden: list[Tensor] = []
        for layer, memory in zip(self.layer, memories, strict=True):
            if use_mems:
                new_mems.append(self.cache_mem(h, memory))
            hidden += [h] if g is None else [h, g]
            if last_only and layer is self.layer[-1]:
                h = self._at_last_position(layer, h, memory, mask, positions, segments)
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

    def _at_last_position(
        self, layer: nn.Module, h: Tensor, memory: Tensor | None, mask: Tensor | None, positions: Tensor | None,
        segments: tuple[Tensor, Tensor] | None,
    ) -> Tensor:  # fmt: skip
        """A layer's output for the last query, `[1, batch, d_model]`: to it, all tokens before are memory."""
        before = h[:-1] if memory is None else torch.cat([memory, h[:-1]])
        if mask is not None and mask.ndim == 3:
            mask = mask[:, -1:]
        if segments is not None:
            segments = segments[0][:, -1:], segments[1]
        if positions is not None:
            positions = positions[: before.shape[0] + 2]  # the distances from all tokens to none
        output: Tensor = layer(h[-1:], None, mask, None, positions, segments, mems=before)[0]
        return output

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


# `save_pretrained` writes the class name into config.json, where only transformers' own name is of use.
FusedXLNetModel.__name__ = XLNetModel.__name__
