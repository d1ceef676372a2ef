"""The single pass: a network and its preprocessing, and the features that it gives of images."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from normgate.backbones import stage_channels, stage_names
from normgate.classes import class_numbers
from normgate.data.decoding import DEFAULT_MAX_PIXELS
from normgate.data.loading import load_batches
from normgate.data.preprocessing import Preprocessing, PreprocessingError
from normgate.features import FeatureError, Features, Rows, concatenate
from normgate.normalization import find_head, stored, temperature, trained_logits, unwrap
from normgate.precision import inference
from normgate.progress import silent
from normgate.taps import MagnitudeSpec, capture, features_last, find_magnitude, magnitude_at
from normgate.verdicts import NOT_FINITE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn

    from normgate.data.loading import PixelBatch
    from normgate.data.sources import Record
    from normgate.progress import Progress
    from normgate.taps import Capture


class FeatureExtractor:
    """A network together with the way its images are prepared and its features are read.

    Threads may call it; they take turns, as they do where two extractors have the same network.

    Args:
        model: any module with one linear head, with or without `l2norm`.
        preprocessing: how images become its input.
        head: the head's name, where it cannot be found.
        magnitude: where the magnitude vector is read, as found earlier.
        search: whether to try the network on an example, and to look for that place, where `magnitude` is None.
        features: name of the module whose input is the magnitude vector, against what would be found.
        device: where to compute; None leaves the model where it is.

    Raises:
        FeatureError: the network does not take images of this size, the device cannot be used, or the network returns
            something else than the logits of the head that was found for it.
        HeadError: the head cannot be found (see :func:`~normgate.normalization.find_head`).
        MagnitudeError: there is no layer of the name given.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        head: str | nn.Linear | None = None,
        magnitude: MagnitudeSpec | None = None,
        search: bool = True,
        features: str | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        if not isinstance(preprocessing, Preprocessing):
            raise PreprocessingError(
                f"preprocessing= is a normgate.Preprocessing, and no {type(preprocessing).__name__}; "
                "Preprocessing.from_torchvision(transform) makes one of a transform"
            )
        self.model = model if device is None else _moved(model, device)
        self.preprocessing = preprocessing
        self.head_name, self.head = find_head(model, head)
        self.stages = stage_names(unwrap(model))
        self.magnitude = magnitude
        if features is not None:
            self.magnitude = magnitude_at(model, features)
        elif magnitude is not None:
            magnitude_at(model, magnitude.module)
        if search and magnitude is None:
            self._try(checked=head is None)  # whoever names a head means what it gives

    def _try(self, checked: bool) -> None:
        """Let the network see an example: it must take it, and shows where its magnitude is."""
        example = self.example()
        with inference(self.model), _explained(example), capture(self.model, self.head, self.magnitude) as tap:
            if self.magnitude is None:
                self.magnitude = find_magnitude(self.model, self.head, example)
            else:
                self.model(example)
            if checked:
                _check_output(tap)

    @property
    def device(self) -> torch.device:
        """Where the head's weight is."""
        return stored(self.head).device

    def __call__(self, images: np.ndarray | torch.Tensor) -> Features:
        """Features of a batch.

        Args:
            images: (N, H, W, 3) uint8 pixels of the preprocessing's size, or a prepared (N, 3, H, W) float tensor.

        Raises:
            FeatureError: the network does not take such a batch, or a feature or logit is not finite.
        """
        features = self.unchecked(images)
        if not (finite := features.finite).all():
            raise FeatureError(
                f"the network gives NaN or infinite features for {int((~finite).sum())} of {len(finite)} images; "
                "its weights or its preprocessing are broken"
            )
        return features

    def read(self, batch: PixelBatch) -> tuple[PixelBatch, Features | None]:
        """Features of a loaded batch, None without any; an image whose features are not finite counts as unreadable."""
        if not len(batch.pixels):
            return batch, None
        features = self.unchecked(batch.pixels)
        fine = features.finite.numpy()
        if fine.all():
            return batch, features
        return batch.only(fine, NOT_FINITE), features.select(fine) if fine.any() else None

    def unchecked(self, images: np.ndarray | torch.Tensor) -> Features:
        """Features of a batch, whether they are finite or not; otherwise as a call."""
        batch = self._input(images)
        with inference(self.model), _explained(batch):
            rows = self.rows(batch)
        return Features(
            z=_host(rows.z),
            logits=_host(rows.logits),
            weight=_host(rows.weight),
            bias=None if rows.bias is None else _host(rows.bias),
            temperature=rows.temperature,
            ids=("",) * len(rows.z),
            m=None if rows.m is None else _host(rows.m),
            stage_norms=None if rows.stage_norms is None else _host(rows.stage_norms),
        )

    def rows(self, batch: torch.Tensor) -> Rows:
        """What a forward pass over a prepared batch (N, 3, H, W) shows, where the network is and with its graph."""
        with capture(self.model, self.head, self.magnitude) as tap, self._stage_tap() as stages:
            self.model(batch)
        logits = tap.logits
        if logits.element_size() < 4:  # they are rounded, and tie
            try:
                logits = trained_logits(self.head, tap.z)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # a head that casts what it is given cannot be asked in another precision
                logits = logits.float()
        return Rows(
            z=tap.z,
            logits=logits,
            weight=self.head.weight.detach(),
            bias=None if self.head.bias is None else self.head.bias.detach(),
            temperature=temperature(self.model),
            ids=(),
            m=tap.m,
            stage_norms=torch.stack(list(stages.values()), dim=1) if stages else None,
        )

    def example(self) -> torch.Tensor:
        """Two images of noise, prepared: they stand in for real ones, so that none of those is seen twice."""
        return self._input(np.random.default_rng(0).integers(0, 256, (2, *self.preprocessing.size, 3), dtype=np.uint8))

    def _input(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        prepared = images
        if isinstance(prepared, np.ndarray):
            prepared = torch.from_numpy(self.preprocessing.normalized(prepared))
        return prepared.to(self.device, dtype=stored(self.head).dtype)

    @contextlib.contextmanager
    def _stage_tap(self) -> Iterator[dict[str, torch.Tensor]]:
        """Norms of the pooled output of each stage; a stage that gives no feature map of its channels is left out."""
        norms: dict[str, torch.Tensor] = {}
        root = unwrap(self.model)
        channels = stage_channels(root)
        says_last = getattr(root, "output_fmt", None) == "NHWC"  # not all networks whose maps are so say it

        def note(name: str, output: Any) -> None:
            if not isinstance(output, torch.Tensor) or output.ndim not in (3, 4):
                return
            last: bool | None = True  # tokens
            if output.ndim == 4:
                last = features_last(output, channels[name], says_last) if name in channels else says_last
            if last is not None:
                norms[name] = torch.linalg.vector_norm(_pool(output.float(), last), dim=1)

        with contextlib.ExitStack() as stack:
            for name in self.stages:
                module = root.get_submodule(name)
                stack.enter_context(module.register_forward_hook(lambda _, __, output, name=name: note(name, output)))
            yield norms


@dataclasses.dataclass(frozen=True)
class Extraction:
    """Features of the images that could be read, and `(id, message)` of those that could not.

    An image for which the network gives no finite features is among the latter.
    """

    features: Features
    errors: tuple[tuple[str, str], ...]


def extract(
    extractor: FeatureExtractor,
    records: Iterable[Record],
    *,
    classes: Sequence[str] | None = None,
    total: int | None = None,
    batch_size: int = 128,
    workers: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    digests: bool = False,
    task: str = "features",
    progress: Progress = silent,
) -> Extraction:
    """Collect the features of a source in one pass.

    Args:
        extractor: the network.
        records: undecoded images, in the order of the rows.
        classes: names of the classes, where labels are wanted; a record's label must be one of them.
        total: number of records, for the progress report.
        batch_size: images in a forward pass.
        workers: decoding threads.
        max_pixels: larger images are errors.
        digests: also fingerprint the decoded images.
        task: name in the progress report.
        progress: told how far the pass is.

    Raises:
        FeatureError: no image can be read, or a label is missing or is no class.
    """
    parts: list[Features] = []
    errors: list[tuple[str, str]] = []
    numbers = None if classes is None else {name: i for i, name in enumerate(classes)}
    done = 0
    batches = load_batches(
        records,
        extractor.preprocessing,
        batch_size=batch_size,
        workers=workers,
        max_pixels=max_pixels,
        digests=digests,
    )
    for loaded in batches:
        batch, features = extractor.read(loaded)
        errors += batch.failures
        if features is not None:
            part = _labelled(features, batch, numbers)
            # One copy of the head for all rows, not one a batch: it may weigh as much as the batch's features.
            parts.append(dataclasses.replace(part, weight=parts[0].weight, bias=parts[0].bias) if parts else part)
        done += len(batch.records)
        progress(task, done, total)
    if not parts:
        raise unreadable(errors)
    return Extraction(concatenate(parts), tuple(errors))


def unreadable(errors: Sequence[tuple[str, str]]) -> FeatureError:
    """The error for a source of which no image can be read or judged, given `(id, message)` of each."""
    if errors and all(message == NOT_FINITE for _, message in errors):
        return FeatureError(
            f"the network gives NaN or infinite features for all of {len(errors)} images; its weights or its "
            "preprocessing are broken"
        )
    reason = f"; the first of {len(errors)} errors: {errors[0][0]}: {errors[0][1]}" if errors else ""
    return FeatureError(f"there is no image that can be read{reason}")


def _labelled(features: Features, batch: PixelBatch, numbers: dict[str, int] | None) -> Features:
    ids = tuple(record.id for record in batch.decoded)
    labels = None if numbers is None else class_numbers(ids, [record.label for record in batch.decoded], numbers)
    return dataclasses.replace(features, ids=ids, labels=labels, digests=batch.digests or None)


def _check_output(tap: Capture) -> None:
    """Refuse a network that changes what its head gives: its own labels and probabilities would be others."""
    output = getattr(tap.output, "logits", tap.output)
    if not isinstance(output, torch.Tensor) or output.shape != tap.logits.shape:
        return  # nothing to compare
    given, returned = tap.logits.double(), output.double()
    if not (given.isfinite().all() and returned.isfinite().all()):
        return  # said where images are read
    tolerance = 1e-4 if min(output.element_size(), tap.logits.element_size()) >= 4 else 1e-2
    # Logits that are all shifted are the same to a softmax: a network may return log-probabilities, or probabilities.
    shifted = given - (given - returned).mean(dim=1, keepdim=True)
    if not any(
        torch.allclose(returned, same, rtol=0, atol=tolerance * float(same.abs().max()))
        for same in (shifted, given.softmax(dim=1))
    ):
        worst = (given - returned).abs().argmax()
        raise FeatureError(
            f"the network does not return what its head {tap.head!r} gives: for an example it returns "
            f"{returned.flatten()[worst]:.4g} where the head gives {given.flatten()[worst]:.4g}. Labels and "
            "probabilities are read at the head: put what comes after it, such as a scale, into the head's weight and "
            f'bias; or, if the head\'s own logits are meant, name it with head="{tap.head}"'
        )


@contextlib.contextmanager
def _explained(batch: torch.Tensor) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise FeatureError(
            f"the network does not take a batch of shape {tuple(batch.shape)}: {error}; "
            "if it wants another size, change the preprocessing (--image-size), if it wants one channel, begin its "
            "forward with x.mean(1, keepdim=True), and if memory is short, change the batch size"
        ) from error


def _moved(model: nn.Module, device: str | torch.device) -> nn.Module:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise FeatureError(f"the device {str(device)!r} cannot be used here: {error}; name another, or cpu") from error


def _pool(output: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Mean over space or tokens, (N, C, H, W), (N, H, W, C) or (N, T, C) → (N, C)."""
    return output.flatten(1, -2).mean(dim=1) if channels_last else output.mean(dim=(2, 3))


def _host(tensor: torch.Tensor) -> torch.Tensor:
    # clone(): tensors made in inference mode cannot be used by autograd afterwards.
    with torch.inference_mode(mode=False):
        return tensor.detach().to("cpu", torch.float32).clone()
