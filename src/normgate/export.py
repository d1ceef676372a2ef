"""Export: a gate as one ONNX graph, from uint8 pixels to verdicts."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from normgate import __version__
from normgate.errors import NormgateError
from normgate.extractor import FeatureExtractor
from normgate.files import check_output, whole_file
from normgate.gate import Gate
from normgate.lazily import missing
from normgate.network_input import network_input
from normgate.normalization import is_normalized, l2norm, remove_l2norm, temperature, unwrap
from normgate.runtime import FORMAT, KEY, MOST_BYTES, OUTPUTS

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from normgate.features import Rows

OPSET = 18
MOST_IMAGES = 4096
"""In a batch; the graph allocates a number for each image and calibration image."""
_EXPORTING = threading.Lock()
"""PyTorch's exporters keep what they are at in globals, so that two at a time would spoil each other's graphs."""


class ExportError(NormgateError):
    """A gate cannot be exported; the message says what is in the way."""


def check_export(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Say what would keep a gate from being exported, before it is read.

    Raises:
        ExportError: a library is missing, or the file has another suffix than .onnx.
        OutputError: the file exists and `overwrite` is not set, or it cannot be written.
    """
    if absent := missing("onnx", "onnxscript"):
        raise ExportError(f"export needs {' and '.join(absent)}: pip install 'normgate[export]'")
    if Path(path).suffix.lower() != ".onnx":
        raise ExportError(f"a portable gate is an ONNX file: name it {Path(path).stem or 'gate'}.onnx")
    check_output(Path(path), overwrite=overwrite)


def export(gate: Gate, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a gate as one ONNX file that `normgate.runtime` reads without torch.

    The graph takes any number of images of the gate's input size; resizing stays outside, in Pillow, so that it is the
    same everywhere.

    Args:
        gate: with any score of `normgate.scores`.
        path: `.onnx`; the file appears whole or not at all.
        overwrite: replace a file that exists.

    Raises:
        ExportError: a library is missing, the network or the score cannot be written as a graph, or it is too large.
        OutputError: the file exists and `overwrite` is not set, or it cannot be written.
    """
    if not isinstance(gate, Gate):
        raise ExportError(f"export(gate, path) writes a gate, and {type(gate).__name__} is none")
    check_export(path, overwrite=overwrite)
    parts = unwrap(gate.extractor.model).state_dict().values()
    if other := {str(part.dtype) for part in parts if part.is_floating_point() and part.dtype != torch.float32}:
        raise ExportError(
            f"the network computes in {', '.join(sorted(other))} and a graph in float32, so that scores would differ "
            "from those that the gate was calibrated with; calibrate network.float()"
        )
    graph = GateGraph(gate).eval()
    height, width = gate.extractor.preprocessing.size
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=MOST_IMAGES)
    try:
        with _EXPORTING, _quietly(), torch.no_grad():
            program = torch.export.export(graph, (example,), dynamic_shapes=({0: batch},), strict=False)
            found = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=["pixels"], output_names=list(OUTPUTS)
            )
    except Exception as error:  # whatever an exporter says of a network
        network = type(unwrap(gate.extractor.model)).__name__
        raise ExportError(f"{network} with {gate.score.name} cannot be written as a graph: {error}") from error
    assert found is not None  # with dynamo=True there is a program
    model = found.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(_about(gate))
    if model.ByteSize() >= MOST_BYTES:
        raise ExportError(f"the graph has {model.ByteSize() / 2**30:.1f} GiB, and an ONNX file holds less than 2")
    with whole_file(Path(path), overwrite=overwrite) as partial:
        partial.write_bytes(model.SerializeToString())


class GateGraph(nn.Module):
    """A gate as a module: (N, H, W, 3) uint8 pixels to logits, score, p-value and decision."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        own = gate.extractor
        self.network = copy.deepcopy(unwrap(own.model)).float().cpu()
        if is_normalized(self.network):  # a τ that was learned is a number now
            tau = temperature(self.network)
            l2norm(remove_l2norm(self.network), head=own.head_name, temperature=tau)
        self.extractor = FeatureExtractor(
            self.network, own.preprocessing, head=own.head_name, magnitude=own.magnitude, search=False
        )
        self.score = gate.score
        calibration = gate.calibration
        self.by_class = calibration.by_class
        self.known: torch.Tensor
        self.thresholds: torch.Tensor
        self.sizes: torch.Tensor
        self.labels: torch.Tensor
        self.register_buffer("known", torch.from_numpy(calibration.scores.copy()))
        self.register_buffer("thresholds", torch.from_numpy(calibration.thresholds.copy()))
        self.register_buffer("sizes", torch.tensor(calibration.sizes, dtype=torch.float64))
        labels = torch.zeros(len(calibration.scores), dtype=torch.int64)
        if calibration.predicted is not None:
            labels = torch.from_numpy(calibration.predicted.copy())
        self.register_buffer("labels", labels)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (N, K) float32, score and p-value (N,) float64, and whether accepted (N,)."""
        rows: Rows = self.extractor.rows(network_input(pixels, self.extractor.preprocessing))
        score = self.score.traced(rows)
        group = rows.logits.argmax(dim=1) if self.by_class else torch.zeros_like(score, dtype=torch.int64)
        among = self.labels == group[:, None]
        at_most = ((self.known <= score[:, None]) & among).sum(dim=1)
        p_value = (at_most + 1) / (self.sizes[group] + 1)
        return rows.logits, score, p_value, score >= self.thresholds[group]


def _about(gate: Gate) -> dict[str, Any]:
    calibration, tuning_scores = gate.calibration, gate.tuning_scores
    return {
        "format": FORMAT,
        "version": __version__,
        "classes": list(gate.classes),
        "preprocessing": gate.extractor.preprocessing.to_dict(),
        "score": gate.score_name,
        "false_alarm_rate": calibration.alpha,
        "calibration_scores": calibration.scores.tolist(),
        "predicted": None if calibration.predicted is None else calibration.predicted.tolist(),
        "tuning_scores": None if tuning_scores is None else tuning_scores.tolist(),
        "caveats": gate.caveats,
    }


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what exporters tell their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    silence = io.StringIO()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
