"""Made-up results of a benchmark that keep to the schema."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from benchmarks.bench.report.schema import FORMAT_VERSION

# A text that is dangerous wherever it is taken as markup.
HOSTILE = "<script>document.title = 'taken'</script> | `code` [link](javascript:alert(1)) **bold** _it_ & <img src=x>"
SCENARIOS = ("single-stream", "multi-stream", "server", "offline")
_LABELS = ["negative", "positive"]
_EDGES = [round(10 ** (index / 24 - 2), 5) for index in range(97)]
_ROUNDS = 7

Json = dict[str, Any]


def estimate(value: float, share: float = 0.02) -> Json:
    """A figure whose interval reaches a share of it to both sides."""
    return {"value": value, "low": value * (1 - share), "high": value * (1 + share)}


def make_results(
    students: int = 1,
    *,
    labelled: bool = True,
    noisy: bool = False,
    scenarios: tuple[str, ...] = SCENARIOS,
    slower: float = 1.0,
    text: str = HOSTILE,
) -> Json:
    """Results of a teacher and some students, each twice as fast as the one before.

    Args:
        slower: what the students' times are multiplied by.
        text: what the two answer otherwise.
    """
    ids = ["teacher", *["student" if number == 0 else f"student-{number + 1}" for number in range(students)]]
    times = {key: 8.0 / 2**index * (slower if index else 1) for index, key in enumerate(ids)}
    ratios = {key: estimate(times[key] / times["teacher"]) if key != "teacher" else None for key in ids}
    rates = {key: estimate(times["teacher"] / times[key], 0.025) if key != "teacher" else None for key in ids}
    return {
        "made_by": "understudy",
        "format_version": FORMAT_VERSION,
        "created": "2026-01-02T03:04:05+00:00",
        "command": ["understudy", "bench", "student", "--teacher", "teacher", "--data", "dev.tsv", "-o", "report"],
        "seconds": 61.5,
        "machine": {
            "cpu": "A processor of 2.4 GHz",
            "cores": 2,
            "system": "Linux x86_64",
            "load_before": 0.1,
            "pinned_cores": [0, 1],
            "understudy": "0.2.0",
            "python": "3.11.9",
            "onnxruntime": "1.23.0",
            "torch": None,
        },
        "settings": {
            "rounds": _ROUNDS,
            "seconds": 4.0,
            "threads": 2,
            "seed": 0,
            "scenarios": list(scenarios),
            "latency_bound_ms": 50,
            "price_per_core_hour": 0.04,
            "engine": "onnx",
            "device": "cpu",
        },
        "task": {"problem_type": "single_label_classification", "labels": _LABELS},
        "data": {
            "name": "dev.tsv",
            "sha256": "d" * 64,
            "rows": 872,
            "labelled": labelled,
            "tokens": {"median": 23, "p90": 40, "max": 66},
        },
        "models": [_model(key, index) for index, key in enumerate(ids)],
        "noise": {
            "verdict": "noisy" if noisy else "steady",
            "spread": 0.23 if noisy else 0.021,
            "limit": 0.1,
            "reasons": ["the reference work spread by 23 %"] if noisy else [],
            "warm_up": dict.fromkeys(ids, 12),
            "rounds": {
                key: [1 + 0.02 * math.sin(turn + index) for turn in range(_ROUNDS)]
                for index, key in enumerate([*ids, "machine"])
            },
        },
        "quality": _quality(ids) if labelled else None,
        "agreement": {"models": {key: _agreement(text, labelled) for key in ids[1:]}},
        "single_stream": {"models": {key: _single(times[key], ratios[key]) for key in ids}}
        if "single-stream" in scenarios
        else None,
        "multi_stream": {"streams": 8, "models": {key: _latency(5 * times[key], ratios[key]) for key in ids}}
        if "multi-stream" in scenarios
        else None,
        "server": {"bound_ms": 50, "models": {key: _server(1000 / times[key], rates[key]) for key in ids}}
        if "server" in scenarios
        else None,
        "offline": {"models": {key: _offline(1600 / times[key], rates[key]) for key in ids}}
        if "offline" in scenarios
        else None,
        "cost": {"models": {key: _cost(times[key]) for key in ids}},
        "roofline": {
            "peak_flops_per_s": estimate(110e9),
            "how": "products of 1,024 rows",
            "threads": 2,
            "dtype": "float32",
        },
    }


def remote(results: Json, key: str = "student") -> Json:
    """The same results with a model behind a URL, of which little is known."""
    model = next(model for model in results["models"] if model["id"] == key)
    unknown = set(model) - {"id", "role", "name"}
    model.update(dict.fromkeys(unknown), where="http://127.0.0.1:8080", dialect="tei", requests=900)
    model["errors"] = {"429": 3, "timeout": 0}
    for part in ("offline", "cost"):
        results[part]["models"].pop(key)
    results["single_stream"]["models"][key]["errors"] = 3
    results["server"]["models"][key].update(max_rate=None, ratio=None, reason="even 1 text/s was too much")
    return results


def _model(key: str, index: int) -> Json:
    layers = max(1, 6 // 2**index)
    return {
        "id": key,
        "role": "student" if index else "teacher",
        "where": "in-process",
        "name": f"{key}-bundle",
        "engine": "onnx",
        "device": "cpu",
        "precision": "float32",
        "layers": layers,
        "parameters": 12_000_000 + 1_770_000 * layers,
        "max_length": 128,
        "sha256": f"{index}" * 64,
        "manifest_sha256": "e" * 64,
        "bytes": 48_000_000 + 7_100_000 * layers,
        "truncated_rows": 0,
    }


def _quality(ids: list[str]) -> Json:
    models = {}
    for index, key in enumerate(ids):
        accuracy = 0.9243 - 0.016 * index
        metrics = {"accuracy": estimate(accuracy, 0.018), "macro-f1": estimate(accuracy - 0.002, 0.018)}
        models[key] = {"metrics": metrics, "retention": estimate(accuracy / 0.9243, 0.013) if index else None}
    return {"metric": "accuracy", "rows": 872, "models": models}


def _agreement(text: str, labelled: bool) -> Json:
    cells = []
    for teacher, student, count in (("negative", "positive", 29), ("positive", "negative", 14)):
        texts = [
            {
                "text": f"{number}: {text}",
                "label": teacher if labelled else None,
                "teacher_score": 0.81,
                "student_score": 0.64,
            }
            for number in range(3)
        ]
        cells.append({"teacher": teacher, "student": student, "count": count, "texts": texts})
    return {
        "name": "same label",
        "value": {"value": 0.9507, "low": 0.9342, "high": 0.9631},
        "rows": 872,
        "mcnemar": {"student_only": 15, "teacher_only": 29, "p": 0.0488} if labelled else None,
        "agreed": {"negative": 404, "positive": 425},
        "confusion": cells,
    }


def _latency(median: float, ratio: Json | None) -> Json:
    return {
        "p50_ms": estimate(median),
        "p90_ms": estimate(1.4 * median),
        "p99_ms": estimate(1.9 * median, 0.08),
        "ratio_p50": ratio,
        "calls": 1792,
    }


def _single(median: float, ratio: Json | None) -> Json:
    shares = [_normal((math.log(edge) - math.log(median)) / 0.28) for edge in _EDGES]
    counts = [round(1792 * (high - low)) for low, high in pairwise(shares)]
    return {
        **_latency(median, ratio),
        "histogram": {"edges_ms": _EDGES, "counts": counts},
        "by_length": [
            {
                "tokens": f"{low}–{high}" if high else f"over {low - 1}",
                "from": low,
                "to": high,
                "texts": 32,
                "joined": 3 if high is None else 0,
                "calls": 224,
                "p50_ms": estimate(median * (0.4 + low / 40), 0.04),
                "ratio": ratio,
            }
            for low, high in ((1, 8), (9, 16), (17, 32), (33, 64), (65, None))
        ],
    }


def _normal(value: float) -> float:
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


def _server(capacity: float, ratio: Json | None) -> Json:
    points = [
        {
            "rate": round(share * capacity, 1),
            "round": number % 3,
            "sent": round(10 * share * capacity),
            "valid": True,
            "held": share < 0.8,
            "p50_ms": 500 / capacity / (1 - share),
            "p90_ms": 1500 / capacity / (1 - share),
            "p99_ms": 3500 / capacity / (1 - share),
            "errors": 0,
            "lag_p99_ms": 0.2,
        }
        for number, share in enumerate((0.25, 0.5, 0.7, 0.77, 0.85, 0.95))
    ]
    return {"max_rate": estimate(0.77 * capacity, 0.05), "reason": None, "ratio": ratio, "points": points}


def _offline(rate: float, ratio: Json | None) -> Json:
    return {
        "texts_per_s": estimate(rate),
        "tokens_per_s": estimate(25 * rate),
        "ratio": ratio,
        "by_batch": [
            {"batch": batch, "texts_per_s": estimate(rate * share), "ratio": ratio}
            for batch, share in ((1, 0.55), (8, 0.9), (32, 1.0))
        ],
    }


def _cost(time: float) -> Json:
    return {
        "start_up_s": estimate(0.9, 0.05),
        "peak_memory_bytes": estimate(140e6 + 10e6 * time, 0.01),
        "flops_per_text": 0.06e9 * time,
        "flops_per_s": estimate(31e9),
        "roofline_share": estimate(0.28),
        "core_seconds_per_million": estimate(1250 * time),
        "price_per_million": estimate(0.0139 * time),
    }
