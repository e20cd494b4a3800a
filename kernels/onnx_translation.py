"""`relative_attention` in standard ONNX operators, for `torch.onnx.export(..., dynamo=True)`.

    torch.onnx.export(model, ..., dynamo=True, custom_translation_table=TRANSLATIONS)

Whoever runs the exported model needs neither this project nor a custom operator. Batch and length may be dynamic.
"""

from collections.abc import Callable
from typing import Any

import onnxscript
import torch
from onnxscript import FLOAT
from onnxscript import opset18 as op

from kernels.eager import HIDDEN
from kernels.relative_attention import relative_attention as _registers_the_op  # noqa: F401

_HALF = (onnxscript.ir.DataType.FLOAT16, onnxscript.ir.DataType.BFLOAT16)


def _relative_attention(
    q: Any,
    k: Any,
    v: Any,
    r: Any = None,
    content_bias: Any = None,
    position_bias: Any = None,
    segment_bias: Any = None,
    segment_embedding: Any = None,
    query_segments: Any = None,
    key_segments: Any = None,
    mask: Any = None,
    seed: Any = None,  # noqa: ARG001
    see_self: bool = False,
    scale: float = 1.0,
    dropout: float = 0.0,
) -> tuple[Any, Any]:
    """The op's schema over ONNX values; returns its output and logsumexp (the latter is pruned where it is unused).

    Raises:
        ValueError: the model was exported with attention dropout, so in training mode.
    """
    if dropout > 0:
        raise ValueError("dropout: relative_attention has dropout only in training; export the model in eval mode")
    # Scaling the three queries rather than the scores saves a pass over the largest tensor.
    factor = op.CastLike(op.Constant(value_float=scale), q)

    def queries(bias: Any) -> Any:
        return op.Mul(q if bias is None else op.Add(q, op.Unsqueeze(bias, [1])), factor)

    scores = op.MatMul(queries(content_bias), op.Transpose(k, perm=[0, 1, 3, 2]))
    if r is not None:
        scores = op.Add(scores, _position_scores(queries(position_bias), r, k))
    if segment_embedding is not None:
        same, different = (op.Gather(segment_embedding, op.Constant(value_int=which)) for which in (0, 1))
        contrast = op.Unsqueeze(op.Sub(different, same), [2])  # [heads, d_head, 1]
        apart = op.Not(op.Equal(op.Unsqueeze(query_segments, [1, 3]), op.Unsqueeze(key_segments, [1, 2])))
        scores = op.Add(scores, op.Mul(op.MatMul(queries(segment_bias), contrast), op.CastLike(apart, q)))
    if q.dtype in _HALF:
        scores = op.Cast(scores, to=FLOAT.dtype)  # the softmax, like the op's, in float32
    if mask is not None:
        # Added rather than selected: it is what runtimes do fast, and in float32 it swallows every true score.
        scores = op.Add(scores, op.Mul(op.CastLike(_hidden(mask, see_self, q, k), scores), op.CastLike(HIDDEN, scores)))
    logsumexp = op.ReduceLogSumExp(scores, [-1], keepdims=0)
    blind = op.LessOrEqual(logsumexp, op.CastLike(HIDDEN / 2, logsumexp))
    logsumexp = op.Where(blind, op.CastLike(float("-inf"), logsumexp), logsumexp)
    return op.MatMul(op.CastLike(op.Softmax(scores, axis=-1), v), v), logsumexp


def _position_scores(queries: Any, r: Any, k: Any) -> Any:
    """(q_i + w)·r_p at p = qlen − i + j, `[batch, heads, qlen, klen]`.

    Row i of the products starts one column further left than row i − 1: dropping the first qlen elements and taking
    the rest in rows one shorter is that shift (Transformer-XL, appendix B).
    """
    shape, qlen, klen = op.Shape(queries), op.Shape(queries, start=2, end=3), op.Shape(k, start=2, end=3)
    if r.shape is not None and r.shape[0] == 1:
        products = op.MatMul(queries, op.Transpose(r, perm=[0, 1, 3, 2]))
    else:
        rest = op.Constant(value_ints=[-1])
        grouped = op.Concat(op.Shape(r, start=0, end=1), rest, op.Shape(queries, start=1), axis=0)
        positions = op.Unsqueeze(op.Transpose(r, perm=[0, 1, 3, 2]), [1])
        products = op.MatMul(op.Reshape(queries, grouped), positions)
    one, heads_and_up = op.Constant(value_ints=[1]), op.Slice(shape, [0], [2], [0])
    width = op.Add(qlen, klen)
    flat = op.Reshape(products, op.Concat(heads_and_up, op.Mul(qlen, width), axis=0))
    shifted = op.Slice(flat, qlen, op.Mul(qlen, width), [2])
    rows = op.Reshape(shifted, op.Concat(heads_and_up, qlen, op.Sub(width, one), axis=0))
    return op.Slice(rows, [0], klen, [3])


def _hidden(mask: Any, see_self: bool, q: Any, k: Any) -> Any:
    """The mask as bool, broadcastable to `[batch, heads, qlen, klen]`, a query's own key left visible if asked for."""
    hidden = op.Unsqueeze(mask, [1, 2] if len(mask.shape) == 2 else [1])
    if not see_self:
        return hidden
    qlen, klen = (op.Squeeze(op.Shape(x, start=2, end=3)) for x in (q, k))
    own = op.Range(op.Sub(klen, qlen), klen, op.Constant(value_int=1))
    keys = op.Range(op.Constant(value_int=0), klen, op.Constant(value_int=1))
    return op.And(hidden, op.Not(op.Equal(op.Unsqueeze(own, [1]), op.Unsqueeze(keys, [0]))))


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.understudy.relative_attention.default: _relative_attention,
}
