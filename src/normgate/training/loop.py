"""The training loop: read it top to bottom."""

from __future__ import annotations

import contextlib
import csv
import functools
import math
import time
import warnings
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from normgate.errors import NormgateError, UnreadableWarning
from normgate.files import whole_file
from normgate.normalization import set_temperature
from normgate.progress import silent
from normgate.training.augmentation import draw_moves
from normgate.training.checkpoint import Checkpoint, Writing
from normgate.training.inputs import input_batches
from normgate.training.objective import Objective
from normgate.training.patterns import Patterns
from normgate.training.processes import agreed, check_same
from normgate.training.run_folder import CHECKPOINT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from lightning_fabric import Fabric
    from torch import nn

    from normgate.data.preprocessing import Preprocessing
    from normgate.progress import Progress
    from normgate.taps import MagnitudeSpec
    from normgate.training.images import TrainingImages
    from normgate.training.recipe import Recipe


class TrainingError(NormgateError):
    """Training cannot go on."""


def fit(
    model: nn.Module,
    images: TrainingImages,
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    fabric: Fabric,
    seed: int,
    run: dict[str, Any],
    folder: Path,
    resume: bool = False,
    compiled: bool = False,
    magnitude: MagnitudeSpec | None = None,
    measure: Callable[[], Mapping[str, float | None]] | None = None,
    progress: Progress = silent,
) -> list[dict[str, float | None]]:
    """Train a network in place and write a checkpoint and a CSV log after each epoch.

    Args:
        model: with its head normalised or not; trained in place, and left in float32.
        images: the training images.
        recipe: how to train.
        preprocessing: its normalisation is applied to the pixels.
        fabric: device, precision and processes.
        seed: with the epoch number, the source of all randomness; an image is mirrored and moved in the same way in
            however many processes.
        run: what identifies this run; a checkpoint of another is refused.
        folder: where `checkpoint.safetensors` and `log.csv` are kept.
        resume: go on from the checkpoint, if there is one.
        compiled: let torch.compile write the code of a step, which takes a while and then saves time on GPUs.
        magnitude: which vector carries the magnitude, where it is not the head's input.
        measure: called after each epoch, in the main process, for further columns of the log; leaves the network as it
            is.
        progress: told the epoch, loss, accuracy and rate.

    Returns:
        The log: for each epoch its loss, accuracy, learning rate and images per second.

    Raises:
        TrainingError: the loss or a weight is not a number, or a batch is too small for the processes that share it.
        CheckpointError: the checkpoint belongs to another run.
        ToldError: another process failed.
    """
    count = len(images.labels)
    batch = min(recipe.batch_size, count)
    _check(recipe, batch, fabric.world_size, preprocessing.size, compiled)
    first, last = (batch * (fabric.global_rank + side) // fabric.world_size for side in (0, 1))
    steps_an_epoch = count // batch
    steps = recipe.epochs * steps_an_epoch
    objective = Objective(model, recipe, magnitude).to(fabric.device)
    sgd = torch.optim.SGD(
        objective.parameter_groups(),
        lr=1.0,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
        fused=_fused(fabric),
    )
    # Convolutions are faster so.
    objective.to(memory_format=torch.channels_last)
    step, optimizer = fabric.setup(_compiled(objective, fabric) if compiled else objective, sgd)
    modules: dict[str, nn.Module] = {"model": model}
    if objective.quarters is not None:
        modules["quarters"] = objective.quarters
    average = None
    if recipe.averaging:
        average = modules["average"] = _average(model, recipe.averaging * steps_an_epoch)
    scaler = _scaler(fabric)
    checkpoint_file = folder / CHECKPOINT
    log: list[dict[str, float | None]] = []
    with agreed(fabric):
        if resume and checkpoint_file.exists():
            checkpoint = Checkpoint.load(checkpoint_file, run)
            checkpoint.restore(modules, sgd, scaler)
            log = checkpoint.log
    check_same(fabric, {"the checkpoints": len(log)}, f"let all machines see the same {folder}")

    with Writing() as writing, objective.at_work():
        for epoch in range(len(log), recipe.epochs):
            started = time.perf_counter()
            torch.manual_seed(_mixed(seed, epoch, 2 * fabric.global_rank + 1))  # for dropout and rotations
            rng = np.random.default_rng([seed, epoch, 2 * fabric.global_rank + 2])  # for probes
            # Every process draws the same, and takes its own share of each batch.
            order, moves, patterns = _draw(recipe, _mixed(seed, epoch, 0), images.labels, preprocessing.size)
            mine = order[: steps_an_epoch * batch].view(steps_an_epoch, batch)[:, first:last]
            if (tau := recipe.temperature_at(epoch)) is not None:
                set_temperature(model, tau)
            objective.train()
            sums = torch.zeros(2, device=fabric.device)  # loss, right answers
            seen = 0
            batches = input_batches(
                images,
                mine.reshape(-1),
                last - first,
                moves=moves,
                patterns=patterns,
                probes=rng if recipe.radial else None,
                preprocessing=preprocessing,
                device=fabric.device,
            )
            for index, (x, labels, probes) in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.learning_rate_at(epoch * steps_an_epoch + index, steps)
                if len(labels) > 1:
                    with _compiling():
                        loss, cross_entropy, logits = step(x, labels, probes)
                        # Averaged over processes, whose shares may differ; the mean over the batch counts.
                        fabric.backward(loss * (fabric.world_size / batch))
                    right = (logits.detach().argmax(dim=1) == labels).sum()
                    sums += torch.stack([cross_entropy.detach(), right])
                    seen += len(labels)
                elif fabric.world_size > 1:
                    _backward_of_nothing(step, objective, x, fabric)
                else:
                    continue
                optimizer.step()
                optimizer.zero_grad()
                if average is not None:
                    average.update_parameters(model)
                if index % 10 == 9 and index + 1 < steps_an_epoch:  # the epoch's end comes with its figures
                    progress("training", epoch * count + (index + 1) * batch, recipe.epochs * count)
            totals, images_seen = fabric.all_reduce((sums, torch.tensor(seen, device=fabric.device)), reduce_op="sum")
            with agreed(fabric):
                mean_loss, accuracy = _means(totals.tolist(), int(images_seen), epoch + 1, recipe)
                if (missing := steps_an_epoch * batch - int(images_seen)) and fabric.is_global_zero:
                    warnings.warn(
                        f"{missing} of {count} training images were left out of epoch {epoch + 1}: they cannot be read "
                        "any longer, or were alone in their batch; bring back what is gone",
                        UnreadableWarning,
                        stacklevel=2,
                    )
                _check_weights(model, epoch + 1)
                row: dict[str, float | None] = {
                    "epoch": epoch + 1,
                    "loss": mean_loss,
                    "accuracy": accuracy,
                    "learning_rate": recipe.learning_rate_at((epoch + 1) * steps_an_epoch - 1, steps),
                    "images_per_second": int(images_seen) / (time.perf_counter() - started),
                }
                if measure is not None and fabric.is_global_zero:
                    row |= measure()
                log.append(row)
                progress("training", (epoch + 1) * count, recipe.epochs * count, loss=mean_loss, accuracy=accuracy)
                if fabric.is_global_zero:
                    writing.begin(functools.partial(_save, Checkpoint.take(run, log, modules, sgd, scaler), folder))
                    if not _writes_beside(fabric.device) or epoch == recipe.epochs - 1:
                        writing.finish()
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    # Whatever it was trained in: float32 is what gates are calibrated, saved and loaded with.
    model.to(dtype=torch.float32).to(memory_format=torch.contiguous_format).eval()
    return log


def check_batch(batch: int, processes: int) -> None:
    """Refuse more processes than a batch has pairs of images: batch normalisation needs two.

    Raises:
        TrainingError: as said.
    """
    if batch // processes < 2:
        raise TrainingError(
            f"{processes} processes cannot share a batch of {batch} images, each needs two or more; "
            "raise the batch size (--batch-size), or use fewer devices"
        )


def _check(recipe: Recipe, batch: int, processes: int, size: tuple[int, int], compiled: bool) -> None:
    """Refuse what cannot be trained so."""
    check_batch(batch, processes)
    if compiled and (recipe.radial or recipe.temperature_start):
        raise TrainingError("a step with a radial loss or a moving temperature cannot be compiled; leave out --compile")
    if recipe.rotations and size[0] != size[1]:
        raise TrainingError(f"rotations need square images, not {size}; choose a recipe with rotations=0")


def _means(sums: list[float], images: int, epoch: int, recipe: Recipe) -> tuple[float, float]:
    """Loss and accuracy of an epoch, of their sums over its images; refuse an epoch of none, or that diverged."""
    if not images:
        raise TrainingError("no training image can be read any longer; bring them back and pass --resume (resume=True)")
    loss, accuracy = (total / images for total in sums)
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} in epoch {epoch}: training diverged; lower the learning rate (now "
            f"{recipe.learning_rate:g}) or check the weights that it started from, and pass --overwrite "
            "(overwrite=True)"
        )
    return loss, accuracy


def _check_weights(model: nn.Module, epoch: int) -> None:
    """Refuse weights that training has spoiled: the loss need not have seen all of them."""
    running = (named for named in model.named_buffers() if named[0].endswith(("running_mean", "running_var")))
    for name, weights in (*model.named_parameters(), *running):
        if not torch.isfinite(weights).all():
            raise TrainingError(
                f"after epoch {epoch} weights of the network are not finite: {name}; choose another precision "
                "(--precision) or a lower learning rate (--lr), and pass --overwrite (overwrite=True)"
            )


def _draw(
    recipe: Recipe, seed: int, labels: torch.Tensor, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, Patterns | None]:
    """The order of an epoch, and how each image is moved and what it is mixed with, where its images are."""
    generator = torch.Generator().manual_seed(seed)
    count, device = len(labels), labels.device
    order = torch.randperm(count, generator=generator)
    moves = draw_moves(count, flip=recipe.flip, shift=round(recipe.shift * min(size)), generator=generator)
    patterns = None
    if recipe.patterns:
        patterns = Patterns.draw(count, share=recipe.patterns, size=size, generator=generator, device=device)
    return order, moves.to(device), patterns


def _average(model: nn.Module, steps: float) -> AveragedModel:
    """The weights of the last steps, about so many, averaged with ever smaller shares."""
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        raise TrainingError(
            "averages move by less than weights of 16 bits can show; choose a mixed precision (--precision "
            "bf16-mixed), or a recipe with averaging=0"
        )
    averaged = get_ema_multi_avg_fn(math.exp(-1 / steps))  # type: ignore[no-untyped-call]
    return AveragedModel(model, multi_avg_fn=averaged, use_buffers=True)


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    """What a compiler says once a step first runs, as something that a user can mend."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            said = str(getattr(error, "inner_exception", error)).strip().partition("\n")[0]
            raise TrainingError(f"the training step cannot be compiled ({said}); leave out --compile") from error
        raise


def _compiled(objective: Objective, fabric: Fabric) -> nn.Module:
    """Steps of small networks on one GPU are short: replaying them as CUDA graphs saves launching their kernels."""
    graphs = fabric.device.type == "cuda" and fabric.world_size == 1
    return cast("nn.Module", torch.compile(objective, mode="reduce-overhead" if graphs else None))


def _backward_of_nothing(step: nn.Module, objective: Objective, x: torch.Tensor, fabric: Fabric) -> None:
    """Take part in a step with no image of one's own: the other processes wait for gradients, and these are zero.

    In evaluation mode, since a blank image is nothing that batch normalisation should learn from.
    """
    objective.eval()
    loss = step(x.new_zeros(1, *x.shape[1:]), torch.zeros(1, dtype=torch.int64, device=x.device)).total
    fabric.backward(0 * loss)
    objective.train()


def _mixed(seed: int, epoch: int, use: int) -> int:
    """One seed out of three numbers, far apart for neighbouring ones."""
    return int(np.random.SeedSequence([seed, epoch, use]).generate_state(1, np.uint64)[0]) >> 1


def _fused(fabric: Fabric) -> bool:
    """One kernel for all weights; not with a scaler, which skips steps: of the first, momentum would stay unwritten."""
    return fabric.device.type == "cuda" and _scaler(fabric) is None


def _scaler(fabric: Fabric) -> torch.amp.GradScaler | None:
    """What keeps gradients within the range of 16-bit floats, where these are used."""
    return getattr(fabric.strategy.precision, "scaler", None)


def _writes_beside(device: torch.device) -> bool:
    """A CPU has nothing to gain from it, and others than CUDA may not be used by two threads."""
    return device.type == "cuda"


def _save(checkpoint: Checkpoint, folder: Path) -> None:
    checkpoint.save(folder / CHECKPOINT)
    log = checkpoint.log
    with whole_file(folder / "log.csv", overwrite=True) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=log[0])
        writer.writeheader()
        writer.writerows(log)
