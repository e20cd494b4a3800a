"""Relative-position attention in plain PyTorch: exact on every device, and what runs wherever no fused kernel does.

Against the common eager implementation it keeps no copy of the positions per batch item, builds no one-hot segment
matrix, reads the shifted position scores through a strided view instead of copying them, and works on blocks of rows,
so that its memory grows with the length and not with its square.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from kernels.arguments import DIFFERENTIABLE, Arguments, laid_out_like

# The score of a hidden key. Finite, so that a row without any visible key averages over all keys instead of being
# NaN; large enough to swallow every true score, so that this average is an equal one.
HIDDEN = -1e30
# Scores of one block of rows, all heads and items together: a few MiB stay in the cache between one pass and the next.
BLOCK_SCORES = 1 << 20


def forward(a: Arguments) -> tuple[Tensor, Tensor]:
    """Attention and the logarithm of each row's softmax denominator.

    Returns:
        The output, shaped and laid out like `q`, and `[batch, heads, qlen]` in float32 (float64 for float64 input);
        the latter is −inf where a row sees no key.
    """
    terms = _Terms(a)
    out = torch.empty_like(a.q)
    logsumexp = terms.q.new_empty(a.q.shape[:3])
    for rows, keep in terms.blocks():
        scores = terms.scores(rows)
        top = scores.amax(-1)
        probabilities = scores.softmax(-1)
        # log Σ exp(s) = max s − log max p: no second pass of exponentials.
        logsumexp[:, :, rows] = torch.where(top <= HIDDEN / 2, -torch.inf, top - probabilities.amax(-1).log())
        if keep is not None:
            probabilities *= keep
        out[:, :, rows] = probabilities @ terms.v
    return out, logsumexp


def forward_packed(a: Arguments, cu_seqlens: Tensor, max_length: int) -> Tensor:
    """Attention within each of the texts that lie one behind the other in the one item of `a`.

    Texts are padded to the longest of those at least half as long, so that a few large products do the work.

    Args:
        a: batch of one; no mask and no dropout; `r` of length `2 · max_length`.
        cu_seqlens: `[texts + 1]`, where each text begins and the last one ends.

    Returns:
        `[1, heads, tokens, d_head]`, with the tokens outermost in memory; zeros in rows of no text.
    """
    tokens, heads, d_head = a.q.shape[2], a.q.shape[1], a.q.shape[3]
    out = a.q.new_zeros(tokens, heads, d_head)
    lengths = cu_seqlens.diff().clamp_max(max_length)
    order = lengths.argsort(descending=True)
    sizes = lengths[order].tolist()
    first = 0
    while first < len(sizes) and sizes[first] > 0:
        longest = sizes[first]
        last = next((n for n in range(first, len(sizes)) if 2 * sizes[n] < longest), len(sizes))
        group = order[first:last]
        inside = torch.arange(longest, device=out.device) < lengths[group, None]  # [texts, longest]
        places = (cu_seqlens[group, None] + torch.arange(longest, device=out.device)).clamp_max(tokens - 1)
        q, k, v = (x[0].transpose(0, 1)[places] for x in (a.q, a.k, a.v))
        # A weight of zero would still let another text's infinities through.
        v = v.masked_fill(~inside[:, :, None, None], 0.0)
        part = a._replace(
            q=q.transpose(1, 2),
            k=k.transpose(1, 2),
            v=v.transpose(1, 2),
            r=a.r[:, :, max_length - longest : max_length + longest] if a.r is not None else None,
            query_segments=a.query_segments[0, places] if a.query_segments is not None else None,
            key_segments=a.key_segments[0, places] if a.key_segments is not None else None,
            mask=None if sizes[last - 1] == longest else ~inside,
        )
        out[places[inside]] = forward(part)[0].transpose(1, 2)[inside]
        first = last
    return out.transpose(0, 1)[None]


def backward(a: Arguments, grad: Tensor, out: Tensor) -> list[Tensor]:
    """Gradients of the arguments in `DIFFERENTIABLE` that are present, in that order.

    With p the probabilities, dS = p ∘ (dO·vᵀ − Σ dO∘O): also in a row without visible keys, whose equal probabilities
    thus have the gradient that the common additive mask gives them.
    """
    terms = _Terms(a)
    grad = grad.to(terms.q.dtype)
    delta = (grad * out).sum(-1, keepdim=True)
    dq, dk, dv = torch.zeros_like(terms.q), torch.zeros_like(terms.k), torch.zeros_like(terms.v)
    dr = torch.zeros_like(terms.r) if terms.r is not None else None
    du, dw, db, contrast = (dq.new_zeros(terms.heads, terms.d_head) for _ in range(4))
    for rows, keep in terms.blocks():
        probabilities = terms.scores(rows).softmax(-1)
        block = grad[:, :, rows]
        d_scores = block @ terms.v.mT
        if keep is not None:
            d_scores *= keep
            dv += (probabilities * keep).mT @ block
        else:
            dv += probabilities.mT @ block
        d_scores = d_scores.sub_(delta[:, :, rows]).mul_(probabilities)

        d_query = (d_scores @ terms.k).mul_(a.scale)
        dk += d_scores.mT @ terms.queries(rows, a.content_bias)
        du += d_query.sum((0, 2))
        dq[:, :, rows] += d_query
        if dr is not None:
            d_query = terms.position_backward(rows, d_scores, dr).mul_(a.scale)
            dw += d_query.sum((0, 2))
            dq[:, :, rows] += d_query
        if terms.contrast is not None:
            across = torch.einsum("bhij,bij->bhi", d_scores, terms.different(rows).to(d_scores.dtype)).mul_(a.scale)
            d_query = across[..., None] * terms.contrast[:, None]
            contrast += torch.einsum("bhi,bhid->hd", across, terms.queries(rows, a.segment_bias, scale=1.0))
            db += d_query.sum((0, 2))
            dq[:, :, rows] += d_query
    found = (dq, dk, dv, dr, du, dw, db, torch.stack((-contrast, contrast)))
    arguments = (getattr(a, name) for name in DIFFERENTIABLE)
    return [laid_out_like(g, x) for g, x in zip(found, arguments, strict=True) if g is not None and x is not None]


class _Terms:
    """The operands in the precision worked in (float32 for the half types), and the score terms of a block of rows."""

    def __init__(self, a: Arguments) -> None:
        dtype = torch.float64 if a.q.dtype == torch.float64 else torch.float32
        self.a = a
        self.q, self.k, self.v = (x.to(dtype) for x in (a.q, a.k, a.v))
        self.r = a.r.to(dtype) if a.r is not None else None
        # The softmax does not see what all keys of a row share, so only the difference of the two embeddings counts.
        self.contrast = a.segment_embedding.to(dtype).diff(dim=0)[0] if a.segment_embedding is not None else None
        self.batch, self.heads, self.qlen, self.d_head = a.q.shape
        self.klen = a.k.shape[2]

    def blocks(self) -> Iterator[tuple[slice, Tensor | None]]:
        """Row blocks in order, each with its dropout factors `[batch, heads, rows, klen]` or None."""
        generator = None
        if self.a.dropout > 0 and self.a.seed is not None:
            generator = torch.Generator(self.q.device).manual_seed(int(self.a.seed))
        step = max(16, BLOCK_SCORES // (self.batch * self.heads * self.klen or 1))
        for start in range(0, self.qlen, step):
            rows = slice(start, min(start + step, self.qlen))
            keep = None
            if generator is not None:
                keep = self.q.new_empty(self.batch, self.heads, rows.stop - start, self.klen)
                keep = keep.bernoulli_(1 - self.a.dropout, generator=generator).div_(1 - self.a.dropout)
            yield rows, keep

    def queries(self, rows: slice, bias: Tensor | None, scale: float | None = None) -> Tensor:
        """(q + bias) · scale for a block: `[batch, heads, rows, d_head]`, in memory of its own."""
        block = self.q[:, :, rows]
        block = block + bias[:, None] if bias is not None else block
        return block * (self.a.scale if scale is None else scale)

    def scores(self, rows: slice) -> Tensor:
        """Masked scores of a block, `[batch, heads, rows, klen]`."""
        scores = self.queries(rows, self.a.content_bias) @ self.k.mT
        if self.r is not None:
            band = self._by_group(self.queries(rows, self.a.position_bias)) @ self._band(rows).mT
            scores.view(self._grouped(scores)).add_(self._skewed(band, rows))
        if self.contrast is not None:
            across = self.queries(rows, self.a.segment_bias) @ self.contrast[..., None]
            scores.addcmul_(self.different(rows)[:, None].to(scores.dtype), across)
        if self.a.mask is not None:
            mask = self.a.mask[:, None, None] if self.a.mask.ndim == 2 else self.a.mask[:, None, rows]
            if self.a.see_self:
                diagonal = scores.diagonal(rows.start + self.klen - self.qlen, -2, -1)
                own = diagonal.clone()
                scores.masked_fill_(mask, HIDDEN)
                diagonal.copy_(own)
            else:
                scores.masked_fill_(mask, HIDDEN)
        return scores

    def different(self, rows: slice) -> Tensor:
        """Whether query and key lie in different segments, `[batch, rows, klen]`."""
        assert self.a.query_segments is not None
        assert self.a.key_segments is not None
        return self.a.query_segments[:, rows, None] != self.a.key_segments[:, None]

    def position_backward(self, rows: slice, d_scores: Tensor, dr: Tensor) -> Tensor:
        """Add a block's share to `dr`; returns the gradient of its position queries, not yet times the scale."""
        count, width = rows.stop - rows.start, self.klen + rows.stop - rows.start - 1
        groups = dr.shape[0]
        band = d_scores.new_zeros(groups * self.heads, self.batch // groups * count, width)
        self._skewed(band, rows).copy_(d_scores.view(self._grouped(d_scores)))
        queries = self._by_group(self.queries(rows, self.a.position_bias))
        first = self.qlen - rows.stop + 1
        dr[:, :, first : first + width] += (band.mT @ queries).view(groups, self.heads, width, self.d_head)
        d_query = (band @ self._band(rows)).view(groups, self.heads, self.batch // groups, count, self.d_head)
        return d_query.transpose(1, 2).reshape(self.batch, self.heads, count, self.d_head)

    def _by_group(self, queries: Tensor) -> Tensor:
        """`[batch, heads, rows, d]` as `[groups · heads, batch / groups · rows, d]`: one matmul a group."""
        return queries.reshape(self._grouped(queries)).transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def _grouped(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape of a tensor `[batch, …]` when the batch is split into r's groups."""
        assert self.r is not None
        return self.r.shape[0], self.batch // self.r.shape[0], *tensor.shape[1:]

    def _band(self, rows: slice) -> Tensor:
        """The rows of `r` that a block meets, `[groups · heads, klen + rows − 1, d]`: from p = qlen − last row on."""
        assert self.r is not None
        first = self.qlen - rows.stop + 1
        return self.r[:, :, first : first + self.klen + rows.stop - rows.start - 1].flatten(0, 1)

    def _skewed(self, band: Tensor, rows: slice) -> Tensor:
        """View of `band` (query · r_p) as `[groups, batch / groups, heads, rows, klen]` with p = qlen − i + j.

        A row further down starts one column further left, so a row stride of one less than the width is the shift.
        """
        assert self.r is not None
        groups, count, width = self.r.shape[0], rows.stop - rows.start, band.shape[-1]
        item, head = count * width, band.shape[1] * width
        size = (groups, self.batch // groups, self.heads, count, self.klen)
        return band.as_strided(size, (self.heads * head, item, head, width - 1, 1), count - 1)
