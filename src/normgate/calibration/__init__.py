"""Thresholds with a stated false-alarm rate, p-values and false-discovery control, from calibration."""

from normgate.calibration.calibrated import Calibration
from normgate.calibration.conformal import (
    CalibrationError,
    expected_false_alarm_rate,
    false_alarm_band,
    false_alarm_spread,
    p_values,
    rank,
    smallest_n,
    smallest_p_value,
    threshold,
)
from normgate.calibration.discovery import RankHistogram, benjamini_hochberg

__all__ = [
    "Calibration",
    "CalibrationError",
    "RankHistogram",
    "benjamini_hochberg",
    "expected_false_alarm_rate",
    "false_alarm_band",
    "false_alarm_spread",
    "p_values",
    "rank",
    "smallest_n",
    "smallest_p_value",
    "threshold",
]
