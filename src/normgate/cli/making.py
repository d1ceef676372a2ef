"""Commands that make gates."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normgate.cli.arguments import (
    check_order,
    json_arguments,
    opened_held_out,
    opened_place,
    score_of,
    stem_of,
    temperature_of,
)
from normgate.cli.options import (
    PIXELS,
    Alpha,
    AsJson,
    BatchSize,
    ByClass,
    Device,
    DropDuplicates,
    GroupColumn,
    ImageColumn,
    Images,
    LabelColumn,
    Lean,
    MaxPixels,
    Output,
    Overwrite,
    ScoreName,
    SkipUnreadable,
    Workers,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from normgate.data.sources import Source
    from normgate.gate import Gate


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything that the demo writes.")] = Path(
        "normgate-demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Train, calibrate, evaluate and screen the embedded hand signs (about two minutes on a CPU)."""
    from normgate import console
    from normgate.demo import demo as run

    with console.progress_bars() as progress:
        result = run(output, seed=seed, progress=progress)
    if as_json:
        console.print_json(result.to_dict())
    else:
        from normgate.tables import print_demo

        print_demo(result)


def train(
    data: Images,
    output: Output,
    recipe: Annotated[str, typer.Option(help="paper (L2 normalisation, τ = 1) or plain.")] = "paper",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=2, help="Images in a step, over all processes together.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    temperature: Annotated[
        str | None,
        typer.Option(help="τ of the normalisation: a number, 'learned', or 'none' to train without it."),
    ] = None,
    standardize: Annotated[
        bool | None, typer.Option("--standardize", help="Bring each image to its own mean and contrast.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=JSON, any other setting of the recipe, such as averaging=3; repeatable."),
    ] = None,
    model: Annotated[str, typer.Option(help="A timm network.")] = "resnet18",
    width: Annotated[int | None, typer.Option(help="Channels of the first stage of a slim ResNet.")] = None,
    stem: Annotated[str, typer.Option(help="ResNets: 'auto' by image size, 'standard', or stride 1 or 2.")] = "auto",
    model_arg: Annotated[
        list[str] | None,
        typer.Option("--model-arg", help="NAME=JSON for timm, such as layers=[1,1,1,1]; repeatable."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(min=8, help="Side of the square input.")] = None,
    squash: Annotated[
        bool, typer.Option("--squash", help="Bring whole images to the square, out of proportion, not their middle.")
    ] = False,
    weights: Annotated[
        Path | None, typer.Option(help="Local checkpoint to start from (safetensors or a torch state dict).")
    ] = None,
    tuning: Annotated[str | None, typer.Option(metavar="DATA", help="Tuning images of their own.")] = None,
    calibration: Annotated[str | None, typer.Option(metavar="DATA", help="Calibration images of their own.")] = None,
    score: ScoreName = "auto",
    alpha: Alpha = 0.05,
    by_class: ByClass = False,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is random.")] = 0,
    device: Device = None,
    devices: Annotated[int, typer.Option(min=1, help="Devices on each machine, a process each.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines; see the guide.")] = 1,
    strategy: Annotated[str, typer.Option(help="Of Lightning Fabric: auto, ddp, …")] = "auto",
    precision: Annotated[
        str | None, typer.Option(help="Of Lightning Fabric; bf16-mixed on CUDA and 32-true elsewhere.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let torch.compile write the training step; for long runs on a GPU.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the unfinished run of the same arguments.")
    ] = False,
    overwrite: Overwrite = False,
    drop_duplicates: DropDuplicates = False,
    skip_unreadable: SkipUnreadable = False,
    lean: Lean = False,
    log_geometry: Annotated[
        bool, typer.Option("--log-geometry", help="Measure neural collapse after each epoch; see 'normgate figure'.")
    ] = False,
    workers: Workers = None,
    max_pixels: MaxPixels = PIXELS,
    image_column: ImageColumn = "image",
    label_column: LabelColumn = "label",
    group_column: GroupColumn = None,
    as_json: AsJson = False,
) -> None:
    """Train a network on labelled images and calibrate a gate with some of them."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from normgate import console, pipeline
    from normgate.errors import NormgateError
    from normgate.tables import print_gate, print_skipped
    from normgate.training import Hardware, Recipe

    changes = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "standardize": standardize,
    }
    chosen = {key: value for key, value in changes.items() if value is not None}
    if temperature is not None:
        chosen["temperature"] = temperature_of(temperature)
    settings = json_arguments(setting or [], "--set", "averaging=3")
    if twice := sorted(chosen.keys() & settings):
        raise NormgateError(f"{', '.join(twice)} is set twice: by an option of its own and by --set; leave one out")

    sources: list[Source] = []
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column}

    def opened(place: str, labelled: bool) -> "Source":
        how = {**columns, "group_column": group_column}
        sources.append(opened_place(place, labelled=True, **how) if labelled else opened_held_out(place, **how))
        return sources[-1]

    with console.progress_bars() as progress, _told_of_epochs(output, resume):
        gate = pipeline.train(
            opened(data, True),
            output,
            recipe=Recipe.named(recipe, **chosen, **settings),
            model=model,
            width=width,
            stem=stem_of(stem),
            model_args=json_arguments(model_arg or []),
            image_size=image_size,
            squash=squash,
            weights=weights,
            tuning=None if tuning is None else opened(tuning, False),
            calibration=None if calibration is None else opened(calibration, False),
            score=score_of(score),
            false_alarm_rate=alpha,
            by_class=by_class,
            seed=seed,
            hardware=Hardware(device or "auto", devices, nodes, strategy, precision, compiled),
            resume=resume,
            overwrite=overwrite,
            drop_duplicates=drop_duplicates,
            skip_unreadable=skip_unreadable,
            lean=lean,
            log_geometry=log_geometry,
            workers=workers,
            max_pixels=max_pixels,
            progress=progress,
        )
    said = rank_zero_only(print_gate)  # of several processes one speaks
    said(gate, output, as_json=as_json)
    if not as_json:
        rank_zero_only(print_skipped)(sum(source.skipped for source in sources))


@contextlib.contextmanager
def _told_of_epochs(output: Path, resume: bool) -> "Iterator[None]":
    """Say, where training is stopped and not refused, that its epochs are not lost."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from normgate import console
    from normgate.calibration import CalibrationError
    from normgate.data.names import printable
    from normgate.errors import NormgateError
    from normgate.training import TrainingError
    from normgate.training.run_folder import CHECKPOINT, RunFolderError, run_folder

    checkpoint = run_folder(output) / CHECKPOINT
    before = _written(checkpoint)
    try:
        yield
    except (TrainingError, RunFolderError):  # say how to go on, or that it would end the same way again
        raise
    except BaseException as error:
        now = _written(checkpoint)
        ours = now != before or (resume and not isinstance(error, NormgateError))
        if now is not None and ours:
            how = "the same command with --resume goes on with them"
            if isinstance(error, CalibrationError):  # which the same command would end with, too
                how = "--resume makes a gate of them once the threshold is asked for in another way, as said below"
            message = f"the epochs so far are kept in {checkpoint.parent}; {how}"
            rank_zero_only(console.err.print)(printable(message), style="yellow", soft_wrap=True)
        raise


def _written(path: Path) -> int | None:
    """When, or None where it is not there."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def calibrate(
    gate: Annotated[Path | None, typer.Argument(metavar="[GATE]", help="Folder of a gate; not with --model.")] = None,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="New calibration images; else those of the gate.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the new gate.")] = None,
    score: Annotated[
        str | None,
        typer.Option(
            help="Another score, knn or with settings knn:k=5; 'auto' lets probes choose, the default of --model with "
            "--tuning; else norm."
        ),
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Another false-alarm rate (0.05).")] = None,
    by_class: Annotated[
        bool | None, typer.Option("--by-class/--pooled", help="A threshold for each predicted class.")
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option("--train", metavar="DATA", help="Training images that the score is fitted to."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A timm network that normgate never trained.")] = None,
    model_arg: Annotated[
        list[str] | None,
        typer.Option("--model-arg", help="NAME=JSON for timm, such as layers=[1,1,1,1]; repeatable."),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Channels of the first stage of a slim ResNet.")] = None,
    stem: Annotated[str, typer.Option(help="ResNets: 'standard', or stride 1 or 2.")] = "standard",
    weights: Annotated[Path | None, typer.Option(help="Its weights (safetensors or a torch state dict).")] = None,
    preprocessing: Annotated[
        Path | None,
        typer.Option(help="As JSON: size, resize, interpolation, mean, std, standardize."),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(help="Its class names, one a line in the order of its outputs; else those of --train."),
    ] = None,
    temperature: Annotated[
        str | None,
        typer.Option(help="τ, if the network was trained with L2 normalisation: a number or 'learned'."),
    ] = None,
    head: Annotated[str | None, typer.Option(help="Its linear head, where it cannot be found.")] = None,
    features: Annotated[str | None, typer.Option(help="Module whose input is the magnitude vector.")] = None,
    tuning: Annotated[str | None, typer.Option(metavar="DATA", help="Tuning images.")] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="DATA", help="Calibration images, as an option instead of DATA.")
    ] = None,
    overwrite: Overwrite = False,
    drop_duplicates: DropDuplicates = False,
    skip_unreadable: SkipUnreadable = False,
    lean: Lean = False,
    device: Device = None,
    batch_size: BatchSize = 128,
    workers: Workers = None,
    max_pixels: MaxPixels = PIXELS,
    image_column: ImageColumn = "image",
    label_column: LabelColumn = "label",
    as_json: AsJson = False,
) -> None:
    """Set a new threshold, from new images, another rate or another score, for a gate or for any timm network."""
    from normgate import console
    from normgate.errors import NormgateError
    from normgate.files import check_output
    from normgate.gate import Gate
    from normgate.gate.folder import foreign
    from normgate.tables import print_gate, print_skipped

    if output is None:
        raise NormgateError("say where to write the new gate: -o FOLDER")
    check_output(output, overwrite=overwrite, foreign=foreign)
    common: dict[str, Any] = {
        "drop_duplicates": drop_duplicates,
        "skip_unreadable": skip_unreadable,
        "lean": lean,
        "batch_size": batch_size,
        "workers": workers,
        "max_pixels": max_pixels,
    }

    # With --model there is no GATE, and the first argument is DATA.
    places = [calibration, data, None if model is None or gate is None else str(gate)]
    calibration_images = [place for place in places if place is not None]
    if len(calibration_images) > 1:
        raise NormgateError(f"{' and '.join(calibration_images)} are both calibration images; pass one of them")

    sources: list[Source] = []
    columns = {"image_column": image_column, "label_column": label_column}

    def opened(place: str | None, labelled: bool) -> "Source | None":
        if place is None:
            return None
        sources.append(opened_place(place, labelled=True, **columns) if labelled else opened_held_out(place, **columns))
        return sources[-1]

    with console.progress_bars() as progress:
        if model is None:
            if gate is None:
                raise NormgateError("name the gate to start from, or a network with --model")
            given: dict[str, Any] = {"weights": weights, "preprocessing": preprocessing, "classes": classes}
            given |= {"head": head, "temperature": temperature, "features": features, "width": width}
            given |= {"model-arg": model_arg or None, "stem": None if stem == "standard" else stem}
            if misplaced := [f"--{name}" for name, value in given.items() if value is not None]:
                raise NormgateError(f"{', '.join(misplaced)} describe a network; they go with --model, not with a gate")
            if (images := calibration or data) is not None:
                check_order("calibrate", gate, images)
            new = Gate.load(gate, device=device).recalibrate(
                opened(images, False),
                train=opened(train_data, True),
                tuning=opened(tuning, False),
                score=None if score is None else score_of(score),
                false_alarm_rate=alpha,
                by_class=by_class,
                progress=progress,
                **common,
            )
        else:
            images = next(iter(calibration_images), None)
            if images is None or weights is None or preprocessing is None:
                raise NormgateError(
                    "--model needs --weights, --preprocessing and --calibration (and --train for most scores)"
                )
            if classes is None and train_data is None:
                raise NormgateError("the names of the classes are not known; pass --classes FILE, or --train DATA")
            new = _gate_of_network(
                model,
                json_arguments(model_arg or []),
                width,
                stem_of(stem),
                weights,
                preprocessing,
                classes,
                temperature,
                calibration=opened(images, False),
                train=opened(train_data, True),
                tuning=opened(tuning, False),
                score=score_of(score or ("norm" if tuning is None else "auto")),
                false_alarm_rate=0.05 if alpha is None else alpha,
                by_class=bool(by_class),
                head=head,
                features=features,
                device=device,
                progress=progress,
                **common,
            )
        new.save(output, overwrite=overwrite)
    print_gate(new, output, as_json=as_json)
    if not as_json:
        print_skipped(sum(source.skipped for source in sources))


def _gate_of_network(
    model: str,
    arguments: dict[str, Any],
    width: int | None,
    stem: int | None,
    weights: Path,
    preprocessing: Path,
    classes: Path | None,
    temperature: str | None,
    **options: Any,
) -> "Gate":
    from normgate.backbones import Backbone, load_weights
    from normgate.data.preprocessing import Preprocessing
    from normgate.errors import NormgateError
    from normgate.gate import Gate
    from normgate.normalization import l2norm

    try:
        names = options["train"].classes if classes is None else classes.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise NormgateError(f"{classes} cannot be read: {error}; it holds one class name a line") from error
    names = [name for line in names if (name := line.strip())]
    backbone = Backbone(model, len(names), width, stem, arguments)
    network = backbone.build()
    tau = None if temperature is None else temperature_of(temperature)
    if tau is not None:
        l2norm(network, head=options["head"], temperature=tau)
    if fresh := load_weights(network, weights, options["head"], exact=True):
        raise NormgateError(
            f"{weights} holds no head for {len(names)} classes ({', '.join(fresh)}); pass weights that were trained on "
            "these classes, or fine-tune with 'normgate train --weights'"
        )
    return Gate.calibrate(
        network, preprocessing=Preprocessing.load(preprocessing), classes=names, backbone=backbone, **options
    )
