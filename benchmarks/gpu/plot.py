"""The picture of `benchmarks.relative_attention`: time over length, one line an implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.attention_baselines import BIASED, COMMON, CUDNN, EAGER, FLASH, FLEX, FUSED, FUSED_PROJECTING
from benchmarks.gpu.targets import PASSES

# Colours that stay apart for colour-blind readers (Okabe and Ito's); floors are dashed, the op's two forms thick.
_STYLES: dict[str, dict[str, Any]] = {
    FUSED: {"color": "#D55E00", "marker": "o", "linewidth": 2.5},
    FUSED_PROJECTING: {"color": "#E69F00", "marker": "D", "linewidth": 2.5},
    COMMON: {"color": "#0072B2", "marker": "s"},
    EAGER: {"color": "#56B4E9", "marker": "v"},
    BIASED: {"color": "#009E73", "marker": "^"},
    FLEX: {"color": "#CC79A7", "marker": "P"},
    FLASH: {"color": "#000000", "marker": "x", "linestyle": "--"},
    CUDNN: {"color": "#888888", "marker": "+", "linestyle": "--"},
}
_SIZE = (11.0, 5.2)
_DPI = 150


def draw(report: dict[str, Any], path: Path) -> None:
    """Median times over the length for the first dtype and batch of a report; both axes logarithmic.

    Args:
        report: as `benchmarks.relative_attention` writes it.
    """
    # Here and not above, since only drawing needs it; a Figure of its own leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    records = report["records"]
    head = {name: records[0][name] for name in ("dtype", "batch")} if records else {"dtype": "nothing", "batch": 0}
    shown = [record for record in records if all(record[name] == value for name, value in head.items())]
    for axes, work in zip(figure.subplots(1, 2), PASSES, strict=True):
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
        lengths = sorted({record["length"] for record in shown})
        for name, style in _STYLES.items():
            times = {
                r["length"]: r[work]["median_ms"] for r in shown if r["implementation"] == name and _timed(r, work)
            }
            if times:
                axes.plot(sorted(times), [times[length] for length in sorted(times)], label=name, **style)
        if lengths:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(lengths, [str(length) for length in lengths])
            axes.minorticks_off()
        axes.set_xlabel("length (tokens)")
        axes.set_ylabel("median time (ms)")
        axes.set_title(work)
    figure.suptitle(
        f"Attention of one layer, {report['heads']} heads of {report['d_head']}, batch {head['batch']}, "
        f"{head['dtype']}, on {report['machine']['device']}: lower is better"
    )
    # Outside, where it covers no value.
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    figure.savefig(path)


def _timed(record: dict[str, Any], work: str) -> bool:
    return bool(record[work]["status"] == "timed")
