"""XLNet in NumPy and float64, one token after the other: what the two streams are tested against.

From the formulas (Yang et al. 2019, §2.3 to §2.5; Transformer-XL, Dai et al. 2019, §3.3), with a set of visible tokens
where other implementations have masks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Key:
    """A token that can be attended to: where it stands, its segment id, and its content state `[d_model]`."""

    position: int
    segment: int
    state: Array


class NaiveXLNet:
    """The weights of a transformers XLNetLMHeadModel, without dropout.

    Attributes:
        backwards: whether positions count backwards.
    """

    def __init__(self, model: Any, *, backwards: bool = False):
        self.weights = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
        self.config = model.config
        self.backwards = backwards

    def run(
        self,
        ids: Sequence[int],
        segments: Sequence[int],
        visible: Sequence[set[int]],
        targets: Sequence[int],
        memory: Sequence[Array] = (),
    ) -> tuple[list[Array], Array]:
        """Both streams of one text.

        Args:
            visible: for each token which ones the query stream sees there; the content stream sees itself, too.
            memory: for each layer the states before the text, `[length, d_model]`.

        Returns:
            The content states that go into each layer and those behind the last, each `[length, d_model]`; the query
            stream's last states, `[targets, d_model]`.
        """
        content = [self.weights["transformer.word_embedding.weight"][token] for token in ids]
        query = dict.fromkeys(targets, self.weights["transformer.mask_emb"][0, 0])
        layers = [np.array(content)]
        for layer in range(self.config.n_layer):
            before = memory[layer] if len(memory) else np.empty((0, self.config.d_model))
            old = [Key(at - len(before), 0, state) for at, state in enumerate(before)]
            new = [Key(at, segments[at], state) for at, state in enumerate(content)]
            query = {
                at: self._layer(layer, state, at, segments[at], [*old, *(new[j] for j in sorted(visible[at]))])
                for at, state in query.items()
            }
            content = [
                self._layer(layer, state, at, segments[at], [*old, *(new[j] for j in sorted(visible[at] | {at}))])
                for at, state in enumerate(content)
            ]
            layers.append(np.array(content))
        return layers, np.array([query[target] for target in targets])

    def log_probabilities(self, states: Array) -> Array:
        """Of all tokens, `[…, vocabulary]`."""
        scores = states @ self.weights["transformer.word_embedding.weight"].T + self.weights["lm_loss.bias"]
        return (
            scores
            - np.log(np.exp(scores - scores.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - scores.max(-1, keepdims=True)
        )

    def _layer(self, layer: int, state: Array, position: int, segment: int, keys: Sequence[Key]) -> Array:
        prefix = f"transformer.layer.{layer}."

        def of(name: str) -> Array:
            return self.weights[prefix + name]

        q = np.einsum("h,hnd->nd", state, of("rel_attn.q"))
        scores = []
        for key in keys:
            k = np.einsum("h,hnd->nd", key.state, of("rel_attn.k"))
            distance = key.position - position if self.backwards else position - key.position
            r = np.einsum("h,hnd->nd", self._sinusoid(distance), of("rel_attn.r"))
            g = of("rel_attn.seg_embed")[0 if key.segment == segment else 1]
            terms = (
                ((q + of("rel_attn.r_w_bias")) * k).sum(-1)
                + ((q + of("rel_attn.r_r_bias")) * r).sum(-1)
                + ((q + of("rel_attn.r_s_bias")) * g).sum(-1)
            )
            scores.append(terms / math.sqrt(self.config.d_head))
        weights = np.exp(np.array(scores) - np.max(scores, axis=0))
        weights /= weights.sum(0)
        values = [np.einsum("h,hnd->nd", key.state, of("rel_attn.v")) for key in keys]
        attended = sum(weight[:, None] * value for weight, value in zip(weights, values, strict=True))
        out = np.einsum("nd,hnd->h", attended, of("rel_attn.o"))
        middle = _layer_norm(out + state, of("rel_attn.layer_norm.weight"), of("rel_attn.layer_norm.bias"))
        inner = middle @ of("ff.layer_1.weight").T + of("ff.layer_1.bias")
        inner = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in inner])
        outer = inner @ of("ff.layer_2.weight").T + of("ff.layer_2.bias")
        return _layer_norm(outer + middle, of("ff.layer_norm.weight"), of("ff.layer_norm.bias"))

    def _sinusoid(self, distance: int) -> Array:
        angle = distance / 10000 ** (np.arange(0, self.config.d_model, 2) / self.config.d_model)
        return np.concatenate([np.sin(angle), np.cos(angle)])


def _layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    result: Array = (x - x.mean()) / np.sqrt(x.var() + 1e-12) * weight + bias
    return result
