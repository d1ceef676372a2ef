"""The training loop: read it top to bottom."""

from __future__ import annotations

import csv
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from normgate.errors import NormgateError
from normgate.files import whole_file
from normgate.progress import silent
from normgate.training.augmentation import draw_moves, flip_and_shift
from normgate.training.checkpoint import Checkpoint
from normgate.training.processes import agreed, check_same

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lightning_fabric import Fabric
    from torch import nn

    from normgate.data.preprocessing import Preprocessing
    from normgate.progress import Progress
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
    measure: Callable[[], Mapping[str, float | None]] | None = None,
    progress: Progress = silent,
) -> list[dict[str, float | None]]:
    """Train a network in place and write a checkpoint and a CSV log after each epoch.

    Args:
        model: with its head normalised or not; trained in place.
        images: the training images.
        recipe: how to train.
        preprocessing: its normalisation is applied to the pixels.
        fabric: device, precision and processes.
        seed: with the epoch number, the source of all randomness; an image is mirrored and moved in the same way in
            however many processes.
        run: what identifies this run; a checkpoint of another is refused.
        folder: where `checkpoint.safetensors` and `log.csv` are kept.
        resume: go on from the checkpoint, if there is one.
        measure: called after each epoch, in the main process, for further columns of the log; leaves the network as it
            is.
        progress: told the epoch, loss, accuracy and rate.

    Returns:
        The log: for each epoch its loss, accuracy, learning rate and images per second.

    Raises:
        TrainingError: the loss is not a number, or a batch is too small for the processes that share it.
        CheckpointError: the checkpoint belongs to another run.
        ToldError: another process failed.
    """
    count = len(images.labels)
    batch = min(recipe.batch_size, count)
    if batch // fabric.world_size < 2:  # batch normalisation needs two
        raise TrainingError(
            f"{fabric.world_size} processes cannot share a batch of {batch} images, each needs two or more; "
            "raise the batch size (--batch-size), or use fewer devices"
        )
    first, last = (batch * (fabric.global_rank + side) // fabric.world_size for side in (0, 1))
    steps_an_epoch = count // batch
    steps = recipe.epochs * steps_an_epoch
    shift = round(recipe.shift * min(preprocessing.size))

    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=1.0,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
    checkpoint_file, log_file = folder / "checkpoint.safetensors", folder / "log.csv"
    log: list[dict[str, float | None]] = []
    with agreed(fabric):
        if resume and checkpoint_file.exists():
            checkpoint = Checkpoint.load(checkpoint_file, run)
            checkpoint.restore(model, optimizer)
            log = checkpoint.log
    check_same(fabric, {"the checkpoints": len(log)}, f"let all machines see the same {folder}")
    # Convolutions are faster so.
    bare = model.to(memory_format=torch.channels_last)
    model, optimizer = fabric.setup(bare, optimizer)

    for epoch in range(len(log), recipe.epochs):
        started = time.perf_counter()
        torch.manual_seed(_mixed(seed, epoch, 1 + fabric.global_rank))  # for dropout
        # Every process draws the same order and moves, and takes its own share of each batch.
        generator = torch.Generator().manual_seed(_mixed(seed, epoch, 0))
        order = torch.randperm(count, generator=generator)[: steps_an_epoch * batch]
        moves = draw_moves(count, flip=recipe.flip, shift=shift, generator=generator).to(images.labels.device)
        mine = order.view(steps_an_epoch, batch)[:, first:last]
        model.train()
        sums = torch.zeros(3, device=fabric.device)  # loss, right answers, images
        for index, (pixels, numbers) in enumerate(images.batches(mine.reshape(-1), last - first)):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(epoch * steps_an_epoch + index, steps)
            pixels = flip_and_shift(pixels, moves[numbers])
            labels = images.labels[numbers].to(fabric.device)
            logits = model(network_input(pixels.to(fabric.device), preprocessing))
            loss = F.cross_entropy(logits, labels, reduction="sum")
            # Gradients are averaged over processes, whose shares may differ; what counts is the mean over the batch.
            fabric.backward(loss * (fabric.world_size / batch))
            optimizer.step()
            optimizer.zero_grad()
            right = (logits.detach().argmax(dim=1) == labels).sum()
            sums += torch.stack([loss.detach(), right, torch.ones_like(right) * len(labels)])
            if index % 10 == 9:
                progress("training", epoch * count + (index + 1) * batch, recipe.epochs * count)
        totals = fabric.all_reduce(sums, reduce_op="sum")
        assert isinstance(totals, torch.Tensor)
        loss_sum, right_sum, image_sum = totals.tolist()
        with agreed(fabric):
            if not image_sum:
                raise TrainingError("no training image can be read any longer; bring them back and pass --resume")
            loss_mean, accuracy = loss_sum / image_sum, right_sum / image_sum
            row: dict[str, float | None] = {
                "epoch": epoch + 1,
                "loss": loss_mean,
                "accuracy": accuracy,
                "learning_rate": recipe.learning_rate_at((epoch + 1) * steps_an_epoch - 1, steps),
                "images_per_second": image_sum / (time.perf_counter() - started),
            }
            if not math.isfinite(loss_mean):
                raise TrainingError(
                    f"the loss is {loss_mean} in epoch {epoch + 1}: training diverged; lower the learning rate "
                    f"(now {recipe.learning_rate:g}) or check the weights that it started from, and pass --overwrite"
                )
            if measure is not None and fabric.is_global_zero:
                row |= measure()
            log.append(row)
            progress("training", (epoch + 1) * count, recipe.epochs * count, loss=loss_mean, accuracy=accuracy)
            if fabric.is_global_zero:
                Checkpoint.take(run, log, bare, optimizer).save(checkpoint_file)
                _write_log(log, log_file)
    bare.to(memory_format=torch.contiguous_format).eval()
    return log


def network_input(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """What `Preprocessing.normalized` does, on the device: (N, H, W, 3) uint8 → (N, 3, H, W) float32."""
    x = pixels.permute(0, 3, 1, 2).float() / 255  # channels-last in memory, as the pixels are
    if preprocessing.standardize:
        deviation = x.std(dim=(1, 2, 3), correction=0, keepdim=True).clamp_min(x[0].numel() ** -0.5)
        return (x - x.mean(dim=(1, 2, 3), keepdim=True)) / deviation
    mean = torch.tensor(preprocessing.mean, device=x.device)[:, None, None]
    std = torch.tensor(preprocessing.std, device=x.device)[:, None, None]
    return (x - mean) / std


def _mixed(seed: int, epoch: int, use: int) -> int:
    """One seed out of three numbers, far apart for neighbouring ones."""
    return int(np.random.SeedSequence([seed, epoch, use]).generate_state(1, np.uint64)[0] >> 1)


def _write_log(log: list[dict[str, float | None]], path: Path) -> None:
    with whole_file(path, overwrite=True) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=log[0])
        writer.writeheader()
        writer.writerows(log)
