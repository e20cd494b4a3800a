"""InfoNCE, the bound on mutual information that all objectives of docs/objectives.md maximise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bound:
    """InfoNCE of a batch of pairs.

    Attributes:
        loss: mean over the pairs of -log of the share that a pair has among its candidates, in nats; scalar float32.
        mutual_information: mean of log(candidates) - loss, pair by pair, in nats; scalar float32, without a gradient.
    """

    loss: Tensor
    mutual_information: Tensor


def info_nce(scores: Tensor, positives: Tensor, candidates: Tensor) -> Bound:
    """I(A;B) ≥ E[f(a,b) - log Σ_{b'∈B'} exp f(a,b')] + log|B'| (InfoWord, arXiv 1910.08350, eq. 1; van den Oord et al.,
    arXiv 1807.03748, section 2.3), computed in float32.

    The bound holds where the negatives are drawn from the distribution of b, whatever a is, and is at most log|B'|. Who
    leaves candidates out because they equal the positive has an estimate, which may be a little too high.

    Args:
        scores: f `[pairs, columns]`, of each a with all that may stand for its b.
        positives: int64 `[pairs]`, the column of each a's own b.
        candidates: `[pairs, columns]`, how often each column stands among a pair's candidates B'; 0 leaves it out, and
            the positive must be there once.
    """
    scores, times = scores.float(), candidates.float()
    own = scores.gather(1, positives[:, None])[:, 0]
    loss = torch.logsumexp(scores + times.log(), dim=1) - own
    return Bound(loss.mean(), (times.sum(dim=1).log() - loss.detach()).mean())


def similarity(a: Tensor, b: Tensor) -> Tensor:
    """f(a, b) = a·b in float32, also where autocast would have it in less: `[n, width]`, `[m, width]` to `[n, m]`."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float().T
