"""What a screening run found."""

from __future__ import annotations

import dataclasses

from normgate.errors import NormgateError


class ScreeningError(NormgateError):
    """Screening cannot do what is asked of it."""


class OtherJobError(ScreeningError):
    """A run that was stopped judged other images, or in another way, and cannot be gone on with."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a screening run found.

    Attributes:
        images: seen in all; the sum of the next three.
        accepted: passed the threshold.
        rejected: did not.
        unreadable: have an error instead of a score.
        skipped: files left out because their names are not those of images; not among the images.
        first_errors: `id: message` of the first few unreadable images.
        false_alarm_rate: α, or None where the false-discovery rate was controlled instead.
        false_discovery_rate: Q, or None.
        cut: largest p-value that is rejected; 0 where nothing is rejected.
        smallest_p_value: 1/(n+1), the smallest that the calibration set allows.
        seconds: wall-clock time.
        runtime: what judged: "onnx" or "torch".
        runtime_reason: why "auto" did not come to ONNX Runtime although it is installed; else None.
        resumed: images that an earlier run, stopped before its end, had judged already.
        shift: what the shift alarm says of the run; None where it was not asked.
    """

    images: int
    accepted: int
    rejected: int
    unreadable: int
    skipped: int
    first_errors: tuple[str, ...]
    false_alarm_rate: float | None
    false_discovery_rate: float | None
    cut: float
    smallest_p_value: float
    seconds: float
    runtime: str
    runtime_reason: str | None = None
    resumed: int = 0
    shift: Shift | None = None


@dataclasses.dataclass(frozen=True)
class Shift:
    """What the shift alarm says of a finished run, whose images it was shown in random order.

    Attributes:
        delta: the chance, at most, of an alarm where the images come like the calibration images.
        raised: whether it was raised.
        after: how many images it took; None where it was not raised.
        log_martingale: the largest log S of the run; the alarm is raised at log 1/δ.
    """

    delta: float
    raised: bool
    after: int | None
    log_martingale: float
