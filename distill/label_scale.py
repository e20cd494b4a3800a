"""Numbers as labels: in their own unit outside, in standard deviations from their mean while a model learns them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from common.labels import REGRESSION
from distill.models import output_layer

Values = TypeVar("Values", NDArray[Any], Tensor)


@dataclass(frozen=True)
class LabelScale:
    """Mean and standard deviation of the training labels; 0 and 1 where these are no numbers.

    A head starts near 0 and moves by steps whose size the learning rate decides, so it would need thousands of them to
    reach labels of 0 to 100. It learns (label - mean) / deviation instead; its last layer holds both in the end.
    """

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, targets: NDArray[Any], problem_type: str) -> LabelScale:
        """That of `Task.targets` of the training rows; labels that are all the same keep a deviation of 1."""
        if problem_type != REGRESSION:
            return PLAIN
        exact = targets.astype(np.float64)
        return cls(float(exact.mean()), float(exact.std()) if np.ptp(exact) else 1.0)

    @property
    def is_plain(self) -> bool:
        """Whether labels are learned as they are."""
        return self == PLAIN

    def standardized(self, values: Values) -> Values:
        """Labels, or a teacher's answers, as they are learned."""
        return values if self.is_plain else (values - self.mean) / self.deviation

    def unfold(self, model: PreTrainedModel) -> None:
        """Has a model that answers in the labels' unit answer as it learns, in place."""
        if self.is_plain:
            return
        layer = output_layer(model)
        with torch.no_grad():
            layer.bias.sub_(self.mean).div_(self.deviation)
            layer.weight.div_(self.deviation)

    @contextlib.contextmanager
    def in_labels_unit(self, model: PreTrainedModel) -> Iterator[None]:
        """While the block runs, a model under training answers in the labels' unit; after it, its weights have the
        bits that they had."""
        if self.is_plain:
            yield
            return
        layer = output_layer(model)
        weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
        with torch.no_grad():
            layer.weight.mul_(self.deviation)
            layer.bias.mul_(self.deviation).add_(self.mean)
        try:
            yield
        finally:
            with torch.no_grad():
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)

    def describe(self) -> dict[str, Any]:
        """What the record keeps of the scale; nothing where labels are no numbers."""
        return {} if self.is_plain else {"labels": asdict(self)}


PLAIN = LabelScale()
