"""XLNet's two streams over a memory of its own for each row of the batch.

transformers' XLNet shows all of the memory to every row. In a stream of documents some rows start one while others go
on with theirs, so here the mask covers the memory too. The layers are those of the fused model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Memory:
    """Each layer's inputs at the last tokens before a segment (Transformer-XL, Dai et al. 2019, §3.2).

    Attributes:
        states: `[layers, length, batch, d_model]`, the last position next to the segment.
        filled: how many positions of a row, the last ones, hold its own document, int64 `[batch]`.
    """

    states: Tensor
    filled: Tensor

    def of(self, continues: Tensor) -> Memory:
        """What the next segments see of it: nothing where a row starts a document, and no position that no row sees.

        Args:
            continues: bool `[batch]`.
        """
        filled = torch.where(continues, self.filled, 0)
        return Memory(self.states[:, self.states.shape[1] - int(filled.max()) :], filled)

    @property
    def hidden(self) -> Tensor:
        """The positions that do not belong to their row, bool `[batch, length]`."""
        length = self.states.shape[1]
        return torch.arange(length, device=self.filled.device) < length - self.filled[:, None]

    def extended(self, inputs: Tensor, kept: Tensor, length: int) -> Memory:
        """The memory after the segments: the last `length` of what it holds and of their first `kept` tokens.

        Args:
            inputs: the layers' inputs at the segments, `[layers, tokens, batch, d_model]`.
            kept: int64 `[batch]`.
        """
        both = torch.cat([self.states, inputs], dim=1)
        # Positions before the first hold nothing: any state may stand there.
        last = self.states.shape[1] + kept
        positions = (last - length + torch.arange(length, device=kept.device)[:, None]).clamp(min=0)
        index = positions[None, :, :, None].expand(both.shape[0], -1, -1, both.shape[3])
        return Memory(both.gather(1, index), (self.filled + kept).clamp(max=length))


def no_memory(model: Any, batch: int) -> Memory:
    """The memory before the first segments.

    Args:
        model: an XLNetModel.
    """
    states = torch.zeros(len(model.layer), 0, batch, model.d_model, dtype=model.dtype, device=model.device)
    return Memory(states, torch.zeros(batch, dtype=torch.int64, device=model.device))


def two_streams(
    model: Any, input_ids: Tensor, token_type_ids: Tensor, perm_mask: Tensor, target_mapping: Tensor, memory: Memory
) -> tuple[Tensor, Tensor]:
    """XLNet's two streams over shared weights (Yang et al. 2019, §2.3), with gradients for the segment alone.

    Args:
        model: an XLNetModel on `relative_attention` (`kernels.xlnet.fuse`). With its `bi_data`, positions count
            backwards in the second half of the batch.
        input_ids, token_type_ids: int64 `[batch, length]`; the memory has segment id 0.
        perm_mask: bool `[batch, length, length]`, True where token i may not see token j; the content stream sees
            itself all the same.
        target_mapping: `[batch, targets, length]`, 1 at each target's position; a row of zeros is no target.
        memory: of the rows.

    Returns:
        The query stream's last states, `[batch, targets, d_model]`, finite where a target sees nothing, too; and what
        went into each layer's content stream, without gradients, `[layers, length, batch, d_model]`.
    """
    batch, length = input_ids.shape
    behind = memory.states.shape[1]
    hidden = torch.cat([memory.hidden[:, None].expand(-1, length, -1), perm_mask], dim=2)
    segments = token_type_ids, nn.functional.pad(token_type_ids, (behind, 0))
    positions = model.dropout(model.relative_positions(length, behind + length, batch))
    mapping = target_mapping.permute(1, 2, 0)
    content = model.dropout(model.word_embedding(input_ids).transpose(0, 1))
    query = model.dropout(model.mask_emb.expand(mapping.shape[0], batch, -1))
    inputs = []
    for layer, mems in zip(model.layer, memory.states, strict=True):
        inputs.append(content.detach())
        content, query = layer(content, query, hidden, hidden, positions, segments, mems=mems, target_mapping=mapping)[
            :2
        ]
    return model.dropout(query).transpose(0, 1), torch.stack(inputs)
