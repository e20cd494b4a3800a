"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from common.devices import check_device
from common.errors import InputError

FP32, FP16, INT8, INT8_STATIC, AUTO = "fp32", "fp16", "int8", "int8-static", "auto"
PRECISIONS = (FP32, FP16, INT8, INT8_STATIC, AUTO)
OPSET = 20


@dataclass(frozen=True)
class ExportSettings:
    """
    Attributes:
        precision: one of `PRECISIONS`; 'auto' takes the fastest that passes.
        labelled: whether the checked table's labels are the task's: they calibrate the scores and judge a lower
            precision.
        max_loss: points of the dev metric (hundredths; for a squared error, per cent) that a lower precision may cost.
        metric: the dev metric; None takes the one that the model was trained by, else the task's default.
        calibration_rows: a table of training texts, which give static int8 its ranges.
        weight_bits: 7, 8, or None for what this machine's processor bears.
        calibrate: whether temperature and thresholds are fitted, where the table is labelled.
        opset: of the graph.
        device: where the exported graph is checked, one of `common.devices.DEVICES`.
        with_weights: whether the weights go in too, for the torch engine.
        seed: draws the texts and batches of the checks.
    """

    precision: str = FP32
    labelled: bool = False
    max_loss: float = 0.5
    metric: str | None = None
    calibration_rows: str | None = None
    weight_bits: int | None = None
    calibrate: bool = True
    opset: int = OPSET
    device: str = "cpu"
    with_weights: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """
        Raises:
            InputError: a setting is out of its range, or lacks what it needs.
        """
        if self.precision not in PRECISIONS:
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, not '{self.precision}'")
        if self.precision != FP32 and not self.labelled:
            raise InputError(f"--precision {self.precision} needs --dev, a labelled table that judges what it costs")
        if not 0 <= self.max_loss <= 100:
            raise InputError(f"max_loss must lie between 0 and 100 points, not {self.max_loss:g}")
        if self.precision == INT8_STATIC and self.calibration_rows is None:
            raise InputError("--precision int8-static needs --train, the training table that gives it its ranges")
        if self.precision.startswith(INT8) and self.device == "cuda":
            raise InputError(
                f"{self.precision} runs on the CPU, no GPU kernels multiply its integers: take fp16 for CUDA"
            )
        if self.precision != FP32 and self.with_weights:
            raise InputError(f"--with-weights: the torch engine would answer in float32, the graph in {self.precision}")
        if self.calibration_rows is not None and self.precision not in (INT8_STATIC, AUTO):
            raise InputError(f"--train gives int8-static its ranges; {self.precision} has no use for it")
        if self.weight_bits is not None and not self.precision.startswith(INT8) and self.precision != AUTO:
            raise InputError(f"--weight-bits is of int8 graphs; {self.precision} has no integers")
        if self.weight_bits not in (None, 7, 8):
            raise InputError(f"weight_bits must be 7 or 8, not {self.weight_bits}")
        check_device(self.device)
