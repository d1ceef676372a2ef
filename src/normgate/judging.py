"""Which runtime judges: a gate's network in PyTorch, or its exported graph in ONNX Runtime, faster on a CPU."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from normgate import __version__
from normgate.cache_folder import default_folder, trim
from normgate.errors import NormgateError
from normgate.export import OPSET, ExportError, export
from normgate.files import OutputError, whole_file
from normgate.gate import Gate
from normgate.gate.folder import describe
from normgate.identity import IdentityError, network_digest
from normgate.lazily import missing
from normgate.normalization import unwrap
from normgate.runtime import FORMAT, PortableGate, RuntimeFileError, is_exported, load_onnxruntime

Judge: TypeAlias = Gate | PortableGate
"""Whatever gives verdicts on loaded images."""
Runtime: TypeAlias = Literal["auto", "onnx", "torch"]
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_DECIDING = ("network", "preprocessing", "classes", "score", "false_alarm_rate", "by_class")
_KEPT_BYTES = 2 * 2**30
_SUFFIX = ".graph"
"""Of a checksum with the graph behind it."""
_CHECKSUM = hashlib.sha256().digest_size


class JudgingError(NormgateError):
    """A runtime is not there, or cannot judge for this gate."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Who judges.

    Attributes:
        judge: gives the verdicts.
        runtime: what it computes with.
        reason: why "auto" did not come to ONNX Runtime although it is installed; else None.
        digest: `gate_digest` of the gate; None where its network holds something whose content cannot be seen.
    """

    judge: Judge
    runtime: Literal["onnx", "torch"]
    reason: str | None = None
    digest: str | None = None


def load_judge(path: str | os.PathLike[str], *, device: str | None = None, threads: int | None = None) -> Judge:
    """A gate from its folder, or from the one file that `normgate export` has made of it; nothing in them is executed.

    Args:
        path: of the folder, or of the file, `.onnx`.
        device: where a folder's network computes; by default a GPU if there is one.
        threads: of an exported gate, as in `choose_judge`.

    Raises:
        GateFolderError: the folder is no gate, is damaged, or was made by a newer version.
        RuntimeFileError: as in `PortableGate.load`.
        JudgingError: the file was to compute elsewhere than on the CPU.
    """
    if not is_exported(path):
        return Gate.load(path, device=device)
    if device not in (None, "cpu"):
        raise JudgingError(f"{path} is judged by ONNX Runtime on the CPU, not on {device}; leave out --device")
    return PortableGate.load(path, threads=threads)


def check_runtime(runtime: str, *, exported: bool = False) -> None:
    """Refuse a runtime that does not exist, is not installed or, of an exported gate, is none that it has.

    Raises:
        JudgingError: as said.
    """
    if runtime not in get_args(Runtime):
        raise JudgingError(f"there is no runtime {runtime!r}; choose one of {', '.join(get_args(Runtime))}")
    if exported:
        if runtime == "torch":
            raise JudgingError("an exported gate is judged by ONNX Runtime, and PyTorch takes the gate's folder alone")
    elif runtime == "onnx" and (absent := missing(*_NEEDED)):
        raise JudgingError(f"the runtime 'onnx' needs {', '.join(absent)}: pip install 'normgate[export]'")


def choose_judge(
    gate: Judge, runtime: Runtime = "auto", *, graphs: Path | None = None, threads: int | None = None
) -> Chosen:
    """Who judges for a gate.

    Args:
        gate: in memory; one that was exported is judged by ONNX Runtime.
        runtime: "onnx" or "torch"; "auto" is ONNX Runtime on a CPU, where it is installed and the gate can be exported.
        graphs: folder where exported graphs are kept under their gates' digests; by default the user's own cache.
        threads: of ONNX Runtime; by default one a core. With 1 it computes in the thread that asks, and many may.

    Raises:
        JudgingError: there is no such runtime, it is not installed, or the gate was exported and is not for "torch".
        ExportError: with "onnx", the gate cannot be exported.
    """
    check_runtime(runtime, exported=isinstance(gate, PortableGate))
    if isinstance(gate, PortableGate):
        judge = gate if gate.threads == threads else PortableGate.of(gate.content, threads=threads)
        return Chosen(judge, "onnx", digest=gate_digest(gate))
    try:
        digest = gate_digest(gate)
    except IdentityError:
        digest = None
    if runtime == "torch" or (runtime == "auto" and (gate.extractor.device.type != "cpu" or missing(*_NEEDED))):
        return Chosen(gate, "torch", digest=digest)
    try:
        # The code of a network of one's own may use what no digest sees; its graph is made anew each time.
        is_timms = type(unwrap(gate.extractor.model)).__module__.partition(".")[0] == "timm"
        known = digest if is_timms else None
        return Chosen(_portable(gate, known, graphs or default_folder() / "graphs", threads), "onnx", digest=digest)
    except (ExportError, RuntimeFileError) as error:
        if runtime == "onnx":
            raise
        return Chosen(gate, "torch", str(error), digest)


def gate_digest(gate: Judge) -> str:
    """A digest of everything that verdicts depend on: network, preprocessing, classes, score and calibration.

    Of an exported gate, it is of the whole file.

    Raises:
        IdentityError: the network holds something whose content cannot be seen.
    """
    if isinstance(gate, PortableGate):
        return hashlib.sha256(gate.content).hexdigest()
    told = describe(gate)
    deciding = {key: told[key] for key in _DECIDING} | {"weights": network_digest(gate.extractor.model)}
    found = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode())
    for name, tensor in sorted(gate.score.state.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    calibration = gate.calibration
    for values in (calibration.scores, calibration.predicted):
        found.update(b"-" if values is None else values.tobytes())
    return found.hexdigest()


def _portable(gate: Gate, digest: str | None, graphs: Path, threads: int | None) -> PortableGate:
    """The gate's graph from the folder, or made anew where it is not there or is damaged."""
    if digest is None:  # it cannot be told from all others
        return _made(gate, threads)
    made_by = f"{digest} {__version__} {FORMAT} {OPSET}"
    path = graphs / f"{hashlib.sha256(made_by.encode()).hexdigest()}{_SUFFIX}"
    with contextlib.suppress(RuntimeFileError, OSError):
        found = memoryview(path.read_bytes())
        check, content = found[:_CHECKSUM], found[_CHECKSUM:]
        if check == _checksum(path.name, content):
            os.utime(path)  # used now
            return PortableGate.of(bytes(content), threads=threads)
    made = _made(gate, threads)
    # A home that cannot be written to must not cost the job.
    with contextlib.suppress(OutputError, OSError):
        graphs.mkdir(mode=0o700, parents=True, exist_ok=True)
        with whole_file(path, overwrite=True) as partial:
            partial.write_bytes(_checksum(path.name, made.content) + made.content)
        trim(graphs, _SUFFIX, limit=_KEPT_BYTES, newest=path)
    return made


def _checksum(name: str, content: bytes | memoryview) -> bytes:
    """Of a graph under its name: a damaged one, or one of another gate, is made anew."""
    found = hashlib.sha256(name.encode() + b"\0")
    found.update(content)
    return found.digest()


def _made(gate: Gate, threads: int | None) -> PortableGate:
    load_onnxruntime()  # before the graph is made for nothing
    with tempfile.TemporaryDirectory(prefix="normgate-") as name:
        export(gate, Path(name) / "gate.onnx")
        return PortableGate.load(Path(name) / "gate.onnx", threads=threads)
