"""XLNet's attention layer on the op, which `kernels.xlnet` puts in the place of transformers' own.

Three things differ from the stock model, none of them in what it computes without dropout: with positional dropout
in training, one dropout pattern serves all items of a batch (the positions are projected once, not once per item);
attention dropout draws other random numbers; in float16 a hidden key weighs nothing, where the stock mask of −65500
leaves it a trace.
"""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers.models.xlnet.modeling_xlnet import XLNetRelativeAttention

from kernels.dense import linear
from kernels.relative_attention import relative_attention
from kernels.relative_attention_packed import relative_attention_packed


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
        places: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """The stock layer's arguments, but for three that FusedXLNetModel gives another form, and one more.

        Args:
            h: content stream, `[qlen, batch, d_model]`.
            g: query stream, `[targets or qlen, batch, d_model]`, or None.
            attn_mask_h, attn_mask_g: the op's bool `mask`, or None; for packed texts the first is their `Packing`.
            r: sinusoids, `[qlen + klen, groups, d_model]`; None where every layer's positions are frozen.
            seg_mat: segment ids of queries and keys, `([batch, qlen], [batch, klen])`, or None.
            mems: `[mlen, batch, d_model]`, or None.
            target_mapping: `[targets, qlen, batch]`, or None.
            output_attentions: True comes from the stock model's forward, with the stock arguments' forms.
            places: each text's only query, int64 `[batch]`; not with `g`, memory, packed texts or two groups in `r`.

        Returns:
            The two streams' outputs, the second None without `g`; with `places` the first is `[1, batch, d_model]`.
        """
        if places is not None:
            return self._at_places(h, places, attn_mask_h, r, seg_mat), None
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

    def _at_places(
        self, h: Tensor, places: Tensor, mask: Tensor | None, r: Tensor | None, segments: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """The content stream's output for one query of each text, `[1, batch, d_model]`; arguments as `forward`'s."""
        length, batch = h.shape[:2]
        positions = self.frozen_for(length, length) if r is None else self._project(r.to(self.r.dtype), self.r)
        assert positions is not None
        own = h[places, torch.arange(batch, device=h.device)][None]
        if mask is not None and mask.ndim == 3:
            mask = mask.expand(batch, -1, -1).gather(1, places[:, None, None].expand(-1, 1, mask.shape[2]))
        if segments is not None:
            segments = segments[0].gather(1, places[:, None]), segments[1]
        # To the op a query stands where the last key does; each text's own distances begin where its query stands.
        rows = length - 1 - places[:, None] + torch.arange(length + 1, device=h.device)
        attended = relative_attention(
            self._project(own, self.q), self._project(h, self.k), self._project(h, self.v),
            positions[0][:, rows].transpose(0, 1).to(h.dtype), **self._terms(h.dtype, segments=segments is not None),
            query_segments=None if segments is None else segments[0],
            key_segments=None if segments is None else segments[1],
            mask=mask, scale=self.scale, dropout=self.dropout.p if self.training else 0.0,
        )  # fmt: skip
        return self.post_attention(own, attended.permute(2, 0, 1, 3))

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
