"""A portable gate: an exported graph asked with ONNX Runtime, NumPy and Pillow alone.

The file holds the network, the score, the threshold and, in its metadata, how images become its input and the scores
that the threshold comes from. It is read as bytes, by a version of ONNX Runtime that then takes weights from no other
file, and nothing in it is executed but the operators of ONNX Runtime.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from normgate.calibration import Calibration
from normgate.calibration.conformal import check_calibration
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.preprocessing import Preprocessing
from normgate.errors import NormgateError
from normgate.monitor import ShiftAlarm
from normgate.verdicts import EMPTY, NOT_FINITE, Verdicts, verdicts_on

if TYPE_CHECKING:
    from types import ModuleType

    from normgate.data.loading import PixelBatch
    from normgate.data.sources import Data

FORMAT = 2
KEY = "normgate"
"""Under which the metadata holds everything of ours, as JSON."""
MOST_BYTES = 2**31
_KINDS = {
    "logits": ("tensor(float)", 2),
    "score": ("tensor(double)", 1),
    "p_value": ("tensor(double)", 1),
    "accepted": ("tensor(bool)", 1),
}
"""Type and number of axes of the outputs, in their order."""
OUTPUTS = tuple(_KINDS)
OLDEST_ONNXRUNTIME = (1, 24)
"""ONNX Runtime before it takes weights from any file that a graph names."""


class RuntimeFileError(NormgateError):
    """A file is no exported gate, is damaged, or needs a library that is not there."""


@dataclasses.dataclass(frozen=True, eq=False)
class PortableGate:
    """An exported gate.

    Attributes:
        session: of ONNX Runtime.
        classes: names of the classes, by class number.
        preprocessing: how images become the graph's input; its normalisation is in the graph.
        score_name: of its score.
        calibration: its calibration scores, which give the threshold and p-values that are in the graph, too.
        tuning_scores: (m,) scores of the tuning images; None where the gate kept none.
        caveats: in plain words, what its score would miss.
        content: of the file, so that the gate can be sent elsewhere.
        threads: of the computation; None for one a core. With 1 it computes in the thread that asks, and many may.
    """

    session: Any
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    score_name: str
    calibration: Calibration
    tuning_scores: np.ndarray | None
    caveats: list[str]
    content: bytes
    threads: int | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, threads: int | None = None) -> PortableGate:
        """Read an exported gate.

        Args:
            path: what `normgate export` has written.
            threads: of the computation; by default one a core.

        Raises:
            RuntimeFileError: the file is no exported gate, is larger than 2 GiB, is damaged, or was made by another
                version; or ONNX Runtime is not installed, or too old.
        """
        return cls.of(_read(Path(path)), str(path), threads=threads)

    @classmethod
    def of(cls, content: bytes, name: str = "the graph", *, threads: int | None = None) -> PortableGate:
        """An exported gate from the content of its file; as `load`."""
        onnxruntime = load_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Threads that wait without spinning leave the cores to those that decode.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        # Weights may be said to lie in other files; these are looked for where there can be none.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # whatever else a file from elsewhere may hold
            raise RuntimeFileError(f"{name} is no graph that ONNX Runtime can load: {error}") from error
        try:
            about = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
            if about["format"] != FORMAT:
                raise RuntimeFileError(f"{name} was made by another version of normgate; export the gate again")
            preprocessing = Preprocessing.from_dict(about["preprocessing"])
            (pixels,) = session.get_inputs()
            if pixels.type != "tensor(uint8)" or tuple(pixels.shape[1:]) != (*preprocessing.size, 3):
                raise ValueError("its input is not what its preprocessing makes")
            outputs = session.get_outputs()
            if [(output.name, (output.type, len(output.shape))) for output in outputs] != list(_KINDS.items()):
                raise ValueError("its outputs are others")
            names = about["classes"]
            if not isinstance(names, list) or {type(name) for name in names} != {str}:
                raise TypeError("classes is no list of names")
            if outputs[0].shape[1] != len(names):
                raise ValueError(f"{len(names)} classes for {outputs[0].shape[1]} outputs")
            classes = tuple(names)
            "".join((about["score"], *names)).encode()  # or no table could hold them
            tuning = about["tuning_scores"]
            return cls(
                session,
                classes,
                preprocessing,
                score_name=about["score"],
                calibration=_calibration(about, classes),
                tuning_scores=None if tuning is None else check_calibration(tuning),
                caveats=[str(caveat) for caveat in about["caveats"]],
                content=content,
                threads=threads,
            )
        except RuntimeFileError:
            raise
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
            NormgateError,
        ) as error:
            raise RuntimeFileError(f"{name} is no gate that normgate has exported: {error}") from error

    def __call__(
        self,
        images: Data,
        *,
        batch_size: int = 128,
        workers: int | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> Verdicts:
        """Judge images; as `Gate`.

        Args:
            images: paths, encoded bytes, Pillow images or uint8 arrays (H, W, C), or a folder.
            batch_size: images in a pass.
            workers: decoding threads.
            max_pixels: larger images are errors.

        Returns:
            One verdict an image, in order; one that cannot be read or judged has an error and is not accepted.
        """
        options = {"batch_size": batch_size, "workers": workers, "max_pixels": max_pixels}
        return verdicts_on(images, self.judge_batch, self.preprocessing, **options)

    def judge_batch(self, batch: PixelBatch) -> Verdicts:
        """Verdicts on a batch of loaded images, the unreadable ones included."""
        ids = [record.id for record in batch.records]
        own = self.judge(batch.pixels) if len(batch.pixels) else EMPTY
        return own.among(ids, batch.errors)

    def judge(self, pixels: np.ndarray) -> Verdicts:
        """Verdicts on (N, H, W, 3) uint8 pixels of the input's size.

        Raises:
            RuntimeFileError: the graph cannot judge them.
        """
        try:
            logits, score, p_value, accepted = self.session.run(list(OUTPUTS), {"pixels": pixels})
        except Exception as error:
            raise RuntimeFileError(f"the exported graph cannot judge {pixels.shape} pixels: {error}") from error
        fine = np.isfinite(score) & np.isfinite(logits).all(axis=1)
        if not fine.all():
            own = self._verdicts(logits[fine], score[fine], p_value[fine], accepted[fine])
            return own.among(("",) * len(pixels), [None if judged else NOT_FINITE for judged in fine])
        return self._verdicts(logits, score, p_value, accepted)

    def shift_alarm(self, *, delta: float = 0.01, seed: int = 0) -> ShiftAlarm:
        """An alarm for a stream of this gate's scores; as `Gate`.

        Raises:
            RuntimeFileError: the gate kept no tuning images.
            CalibrationError: delta is no share.
        """
        if self.tuning_scores is None:
            raise RuntimeFileError(
                "the shift alarm ranks scores between quantiles of tuning images, and this gate kept none; calibrate "
                "it with --tuning DATA and without --lean, and export it again"
            )
        return ShiftAlarm.start(self.calibration.scores, self.tuning_scores, delta=delta, seed=seed)

    def _verdicts(self, logits: np.ndarray, score: np.ndarray, p_value: np.ndarray, accepted: np.ndarray) -> Verdicts:
        predicted = logits.argmax(axis=1)
        odds = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        return Verdicts(
            id=("",) * len(score),
            label=[self.classes[i] for i in predicted],
            probability=1 / odds.sum(axis=1),
            score=score,
            p_value=p_value,
            accepted=accepted,
            error=[None] * len(score),
        )


def _calibration(about: dict[str, Any], classes: tuple[str, ...]) -> Calibration:
    predicted = about["predicted"]
    return Calibration(
        np.array(about["calibration_scores"], dtype=np.float64),
        about["false_alarm_rate"],
        None if predicted is None else np.array(predicted),
        None if predicted is None else classes,
    )


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether this is the place of an exported gate, by its name."""
    return Path(path).suffix.lower() == ".onnx" and not Path(path).is_dir()


def load_onnxruntime() -> ModuleType:
    """ONNX Runtime, once it is known to be one that can be trusted with a graph.

    Raises:
        RuntimeFileError: it is not installed, or too old.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some builds report home; what users have set stays
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeFileError("exported gates run in ONNX Runtime: pip install onnxruntime") from error
    found = re.match(r"(\d+)\.(\d+)", onnxruntime.__version__)
    if found is None or tuple(map(int, found.groups())) < OLDEST_ONNXRUNTIME:
        raise RuntimeFileError(
            f"ONNX Runtime {onnxruntime.__version__} may let a graph read any file of this machine; upgrade: "
            f"pip install 'onnxruntime>={'.'.join(map(str, OLDEST_ONNXRUNTIME))}'"
        )
    module: ModuleType = onnxruntime
    return module


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise RuntimeFileError(f"{path} is a folder: if it is a gate's, export it first, or read it with Gate.load")
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise RuntimeFileError(f"{path} has {size / 2**30:.1f} GiB, more than an exported gate can have")
        return path.read_bytes()
    except OSError as error:
        raise RuntimeFileError(f"{path} cannot be read: {error.strerror or error}") from error
