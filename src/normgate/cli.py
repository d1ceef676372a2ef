"""The command line: parse, call, print."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from normgate import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from normgate.data.sources import Source
    from normgate.evaluation import Evaluation
    from normgate.gate import Gate
    from normgate.judging import Runtime
    from normgate.screening import Engine

app = typer.Typer(
    name="normgate",
    help="Image classifiers that know when not to answer: train a gate, set its threshold, screen images with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DONE, DATA_FAILED, USAGE, INTERNAL, REJECTED, INTERRUPTED = 0, 1, 2, 3, 4, 130

GateFolder = Annotated[Path, typer.Argument(metavar="GATE", help="Folder of a gate.")]
Images = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="Labelled images: class folders, Parquet, tars, an address of these or torchvision:NAME."
    ),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write; appears whole or not at all.")]
Alpha = Annotated[
    float, typer.Option("--alpha", help="False-alarm rate: share of familiar images that may be rejected.")
]
ByClass = Annotated[bool, typer.Option("--by-class", help="A threshold for each predicted class.")]
Lean = Annotated[bool, typer.Option("--lean", help="Keep no features in the gate.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, mps, …; by default what is there.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images in a forward pass.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Decoding threads; by default one a core, up to 8.")
]
MaxPixels = Annotated[int, typer.Option("--max-pixels", min=1, help="Larger images are errors.")]
DropDuplicates = Annotated[
    bool, typer.Option("--drop-duplicates", help="Leave images that two sets share out of the later set.")
]
SkipUnreadable = Annotated[bool, typer.Option("--skip-unreadable", help="Go on without images that cannot be read.")]
ImageColumn = Annotated[str, typer.Option("--image-column", help="Parquet column of the images.")]
LabelColumn = Annotated[str, typer.Option("--label-column", help="Parquet column of the labels.")]
GroupColumn = Annotated[
    str | None,
    typer.Option("--group-column", help="Parquet column of groups (person, scene) that no split divides."),
]
ScoreName = Annotated[
    str, typer.Option("--score", help="Score of the gate: 'auto' lets probes choose; see 'normgate scores'.")
]

Report = Annotated[
    Path | None, typer.Option("--report", metavar="PAGE", help="Also write a page to open in a browser, as .html.")
]
WithNeighbours = Annotated[
    str | None,
    typer.Option(
        "--with-neighbours",
        metavar="DATA",
        help="Show, in the report, the nearest of these images, which the gate was trained on; by default none.",
    ),
]

RuntimeName = Annotated[
    str, typer.Option("--runtime", help="onnx, torch, or auto: ONNX Runtime on a CPU where it is installed.")
]

PIXELS = 100_000_000


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"normgate {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
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


@app.command()
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
    from normgate.training import Recipe

    changes = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "standardize": standardize,
    }
    chosen = {key: value for key, value in changes.items() if value is not None}
    if temperature is not None:
        chosen["temperature"] = _temperature(temperature)
    settings = _json_arguments(setting or [], "--set", "averaging=3")
    if twice := sorted(chosen.keys() & settings):
        raise NormgateError(f"{', '.join(twice)} is set twice: by an option of its own and by --set; leave one out")

    def opened(place: str, labelled: bool) -> Source:
        return _open(place, labelled, image_column, label_column, group_column)

    with console.progress_bars() as progress:
        gate = pipeline.train(
            opened(data, True),
            output,
            recipe=Recipe.named(recipe, **chosen, **settings),
            model=model,
            width=width,
            stem=_stem(stem),
            model_args=_json_arguments(model_arg or []),
            image_size=image_size,
            weights=weights,
            tuning=None if tuning is None else opened(tuning, False),
            calibration=None if calibration is None else opened(calibration, False),
            score=score,
            false_alarm_rate=alpha,
            by_class=by_class,
            seed=seed,
            hardware=pipeline.Hardware(device or "auto", devices, nodes, strategy, precision, compiled),
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
    rank_zero_only(_print_gate)(gate, output, as_json)  # of several processes one speaks


@app.command()
def calibrate(
    gate: Annotated[Path | None, typer.Argument(metavar="[GATE]", help="Folder of a gate; not with --model.")] = None,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="New calibration images; else those of the gate.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to write the new gate.")] = None,
    score: Annotated[
        str | None,
        typer.Option(help="Another score; 'auto' lets probes choose, the default of --model with --tuning; else norm."),
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
        Path | None, typer.Option(help="Its preprocessing as JSON: size, resize, interpolation, mean, std.")
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

    def opened(place: str | None, labelled: bool) -> Source | None:
        return None if place is None else _open(place, labelled, image_column, label_column, None)

    with console.progress_bars() as progress:
        if model is None:
            if gate is None:
                raise NormgateError("name the gate to start from, or a network with --model")
            given: dict[str, Any] = {"weights": weights, "preprocessing": preprocessing, "classes": classes}
            given |= {"head": head, "temperature": temperature, "features": features, "width": width}
            given |= {"model-arg": model_arg or None, "stem": None if stem == "standard" else stem}
            if misplaced := [f"--{name}" for name, value in given.items() if value is not None]:
                raise NormgateError(f"{', '.join(misplaced)} describe a network; they go with --model, not with a gate")
            new = Gate.load(gate, device=device).recalibrate(
                opened(calibration or data, False),
                train=opened(train_data, True),
                tuning=opened(tuning, False),
                score=score,
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
                _json_arguments(model_arg or []),
                width,
                _stem(stem),
                weights,
                preprocessing,
                classes,
                temperature,
                calibration=_open(images, False, image_column, label_column, None),
                train=opened(train_data, True),
                tuning=opened(tuning, False),
                score=score or ("norm" if tuning is None else "auto"),
                false_alarm_rate=0.05 if alpha is None else alpha,
                by_class=bool(by_class),
                head=head,
                features=features,
                device=device,
                progress=progress,
                **common,
            )
        new.save(output, overwrite=overwrite)
    _print_gate(new, output, as_json)


@app.command()
def screen(
    gate: GateFolder,
    incoming: Annotated[
        str,
        typer.Argument(
            metavar="INCOMING",
            help="A folder, an image, Parquet, tars, a pattern or an address of these (s3://…), or '-' for paths on "
            "standard input.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="verdicts.parquet for one file, any other name for a folder of parts."),
    ] = None,
    fdr: Annotated[
        float | None,
        typer.Option("--fdr", help="Control the false-discovery rate of the run at this level instead of α."),
    ] = None,
    list_rejected: Annotated[
        bool, typer.Option("--list-rejected", help="Print the ids of the rejected images.")
    ] = False,
    copy_rejected: Annotated[Path | None, typer.Option(metavar="DIR", help="Copy the rejected files there.")] = None,
    move_rejected: Annotated[Path | None, typer.Option(metavar="DIR", help="Move the rejected files there.")] = None,
    fail_on_reject: Annotated[
        bool, typer.Option("--fail-on-reject", help="Exit with 4 if something was rejected.")
    ] = False,
    shift_alarm: Annotated[
        float | None,
        typer.Option(
            "--shift-alarm",
            metavar="DELTA",
            help="Say whether the images have shifted, with this chance at most of a false alarm, such as 0.01.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    runtime: RuntimeName = "auto",
    device: Device = None,
    batch_size: BatchSize = 128,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            help="Threads that decode and, in ONNX Runtime, judge (with Ray: processes); by default about one a core.",
        ),
    ] = None,
    max_pixels: MaxPixels = PIXELS,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray: Ray Data, on one machine or many.")] = "local",
    address: Annotated[
        str | None, typer.Option("--address", help="Of a running Ray cluster; by default one is started here.")
    ] = None,
    part_rows: Annotated[
        int, typer.Option("--part-rows", min=1, help="Images after which a part is finished, and never judged again.")
    ] = 8192,
    image_column: ImageColumn = "image",
    report: Report = None,
    with_neighbours: WithNeighbours = None,
    as_json: AsJson = False,
) -> None:
    """Judge images: one verdict for a single file, a Parquet table for anything else.

    A run that was stopped at any moment goes on where it was when the same command is given again.
    """
    from normgate import console, tables
    from normgate.data.kinds import kind_of
    from normgate.data.sources import load
    from normgate.errors import NormgateError
    from normgate.gate import Gate
    from normgate.judging import check_runtime, choose_judge
    from normgate.screening import Summary, check_engine, rejected_ids
    from normgate.screening import screen as run

    check_runtime(runtime)
    check_engine(engine, address)
    neighbours = _neighbours(report, with_neighbours, overwrite, image_column)
    if copy_rejected is not None and move_rejected is not None:
        raise NormgateError("--copy-rejected and --move-rejected exclude each other")
    of_many = (fdr, copy_rejected, move_rejected, report, shift_alarm)
    about_many = list_rejected or any(value is not None for value in of_many)
    one = os.path.isfile(incoming) and kind_of(incoming) not in ("tables", "shards")  # noqa: PTH113 (any text)
    if output is None and one and not about_many:
        # To export a graph takes longer than to judge one image.
        judge = choose_judge(Gate.load(gate, device=device), "onnx" if runtime == "onnx" else "torch").judge
        verdict = judge([incoming], max_pixels=max_pixels)[0]
        tables.print_verdict(verdict, as_json=as_json)
        code = DATA_FAILED if verdict.error else REJECTED if fail_on_reject and not verdict.accepted else DONE
        raise typer.Exit(code)
    if output is None:
        if incoming != "-":
            _open(incoming, False, image_column, "label", None)  # where there is nothing, that is what to say
        raise NormgateError("say where to write the verdicts: -o verdicts.parquet")
    with console.progress_bars() as progress, _told_of_parts(output):
        loaded = Gate.load(gate, device=device)
        images = _paths_on_stdin() if incoming == "-" else _open(incoming, False, image_column, "label", None)
        if report is not None and incoming == "-":
            images = load(images)  # lines come only once
        if neighbours is not None:
            from normgate.report import check_neighbours

            check_neighbours(loaded, neighbours)

        def write_report(found: Summary) -> None:
            from normgate.report import screening_report

            assert report is not None
            screening_report(
                report,
                loaded,
                output,
                images,
                found,
                neighbours=neighbours,
                max_pixels=max_pixels,
                overwrite=overwrite,
                progress=progress,
            )

        summary = run(
            loaded,
            images,
            output,
            fdr=fdr,
            rejected="copy" if copy_rejected is not None else "move" if move_rejected is not None else None,
            rejected_to=copy_rejected if copy_rejected is not None else move_rejected,
            overwrite=overwrite,
            runtime=cast("Runtime", runtime),
            engine=cast("Engine", engine),
            address=address,
            batch_size=batch_size,
            workers=workers,
            max_pixels=max_pixels,
            part_rows=part_rows,
            shift_delta=shift_alarm,
            written=None if report is None else write_report,
            progress=progress,
        )
    tables.print_summary(summary, output, rejected_ids(output) if list_rejected else None, as_json=as_json)
    if report is not None and not as_json:
        tables.print_written(report)
    if summary.unreadable:
        raise typer.Exit(DATA_FAILED)
    if fail_on_reject and summary.rejected:
        raise typer.Exit(REJECTED)


@app.command()
def evaluate(
    gates: Annotated[
        list[Path],
        typer.Argument(metavar="GATE...", help="A gate; several that differ by their seed give mean, min and max."),
    ],
    known: Annotated[str, typer.Option("--id", metavar="DATA", help="Test images of the known classes.")],
    ood: Annotated[
        list[str] | None, typer.Option("--ood", metavar="NAME=DATA", help="Unknown images; repeatable.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="NAME=SET,SET", help="Unknown sets whose mean is taken; by default all."),
    ] = None,
    score: Annotated[
        list[str] | None, typer.Option("--score", help="Scores to compare; by default all; repeatable.")
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option("--train", metavar="DATA", help="Training images for scores, instead of those the gate keeps."),
    ] = None,
    tuning: Annotated[
        str | None, typer.Option(metavar="DATA", help="Tuning images for scores, instead of those the gate keeps.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where features are kept for the next run; by default in your cache folder."),
    ] = None,
    cache_limit: Annotated[
        float,
        typer.Option("--cache-limit", metavar="GIB", min=0, help="Features beyond it that were used longest ago go."),
    ] = 4.0,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no features for the next run.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write the results, as .json, .csv or .md.")
    ] = None,
    report: Report = None,
    with_neighbours: WithNeighbours = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write the report's charts there, as SVG and PDF.")
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    batch_size: BatchSize = 128,
    workers: Workers = None,
    max_pixels: MaxPixels = PIXELS,
    image_column: ImageColumn = "image",
    label_column: Annotated[
        str | None,
        typer.Option("--label-column", help="Parquet column of the labels; by default 'label', if there is one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare scores on test images, and what the gate promised with what happened."""
    from normgate import console, tables
    from normgate.errors import NormgateError
    from normgate.evaluation import evaluate as run
    from normgate.evaluation import open_known, over_seeds
    from normgate.evaluation.cache import FeatureCache, default_folder
    from normgate.evaluation.writing import writer
    from normgate.files import check_output
    from normgate.gate import Gate

    if output is not None:
        writer(output)
        check_output(output, overwrite=overwrite)
    neighbours = _neighbours(report, with_neighbours, overwrite, image_column)
    if figures is not None:
        from normgate.report import check_figures

        check_figures(figures, overwrite=overwrite)
    drawn = report is not None or figures is not None
    if drawn and len(gates) > 1:
        raise NormgateError("a report and figures are of one gate; name one, or leave out --report and --figures")

    def opened(place: str | None, labelled: bool) -> Source | None:
        return None if place is None else _open(place, labelled, image_column, label_column or "label", None)

    sets = {name: _open(place, False, image_column, "label", None) for name, place in _named("--ood", ood)}
    groups = {name: _set_names(name, text, list(sets)) for name, text in _named("--group", group)}
    features = None if no_cache else FeatureCache(cache or default_folder(), limit=int(cache_limit * 2**30))
    test = open_known(known, image_column=image_column, label_column=label_column)
    with console.progress_bars() as progress:
        first = Gate.load(gates[0], device=device)

        def evaluated(folder: Path) -> Evaluation:
            return run(
                first if folder == gates[0] else Gate.load(folder, device=device),
                test,
                sets,
                scores=score or "all",
                groups=groups or None,
                train=opened(train_data, True),
                tuning=opened(tuning, False),
                cache=features,
                batch_size=batch_size,
                workers=workers,
                max_pixels=max_pixels,
                keep_features=drawn,
                progress=progress if len(gates) == 1 else console.prefixed(f"{folder.name}: ", progress),
            )

        if neighbours is not None:
            from normgate.report import check_neighbours

            check_neighbours(first, neighbours)
        evaluations = [evaluated(folder) for folder in gates]
        results = evaluations[0] if len(gates) == 1 else over_seeds(evaluations)
        if output is not None:
            results.save(output, overwrite=overwrite)
    if as_json:
        console.print_json(results.to_dict())
    else:
        tables.print_results(results)
    with console.progress_bars() as progress:
        if report is not None:
            from normgate.report import evaluation_report

            evaluation_report(
                report,
                first,
                evaluations[0],
                {"id": test, **sets},
                neighbours=neighbours,
                max_pixels=max_pixels,
                overwrite=overwrite,
                progress=progress,
            )
        if figures is not None:
            from normgate.report import save_figures

            save_figures(first, evaluations[0], figures, overwrite=overwrite)
    for written in () if as_json else filter(None, (output, report, figures)):
        tables.print_written(written)
    if any(evaluation.errors for evaluation in evaluations):
        raise typer.Exit(DATA_FAILED)


@app.command()
def inspect(gate: GateFolder, as_json: AsJson = False) -> None:
    """Say what a gate is, what it promises, what its score would miss, and whether the norm can work."""
    from normgate.gate import Gate

    loaded = Gate.load(gate, device="cpu")
    _print_gate(loaded, gate, as_json)
    if not as_json:
        from normgate.tables import print_each_probe, print_geometry

        if loaded.probes is not None and not loaded.probes.too_few:
            print_each_probe(loaded.probes, loaded.score.name)
        print_geometry(loaded)


@app.command()
def export(
    gate: GateFolder,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write, as .onnx.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a gate as one ONNX file, which ONNX Runtime, NumPy and Pillow can ask without torch."""
    from normgate import tables
    from normgate.export import check_export
    from normgate.export import export as run
    from normgate.gate import Gate

    check_export(output, overwrite=overwrite)
    run(Gate.load(gate, device="cpu"), output, overwrite=overwrite)
    tables.print_written(output)


@app.command()
def serve(
    gate: GateFolder,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    runtime: RuntimeName = "auto",
    device: Device = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 32 * 2**20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Of an image.")] = 50_000_000,
    max_images: Annotated[int, typer.Option(min=1, help="Of a request.")] = 128,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait in a process.")] = 512,
    timeout: Annotated[float, typer.Option(help="Seconds from a request to its answer.")] = 30.0,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ask for the token in this file; else for $NORMGATE_TOKEN.")
    ] = None,
    shift_alarm: Annotated[
        float | None,
        typer.Option(metavar="DELTA", help="Watch for a shift, with this chance at most of a false alarm."),
    ] = None,
    shift_state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the alarm goes on after the server was stopped.")
    ] = None,
    with_neighbours: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Show visitors the nearest of these images, which the gate was trained on."),
    ] = None,
    image_column: ImageColumn = "image",
) -> None:
    """Answer over HTTP: verdicts as JSON, a page to drop images on, and metrics."""
    from normgate import console
    from normgate.serving import Options, read_token, run

    options = Options(
        runtime=cast("Runtime", runtime),  # checked when the gate is loaded
        device=device,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        max_images=max_images,
        queue=queue,
        timeout=timeout,
        token=read_token(token_file),
        shift_delta=shift_alarm,
        shift_state=shift_state,
        neighbours=with_neighbours,
        image_column=image_column,
    )

    def told(address: str) -> None:
        console.err.print(f"{gate} at {address}", soft_wrap=True)

    run(gate, options, host=host, port=port, workers=workers, told=told)


@app.command()
def figure(
    chart: Annotated[str, typer.Argument(metavar="CHART", help="collapse, probes or norms-by-class.")],
    gates: Annotated[
        list[Path], typer.Argument(metavar="GATE...", help="A gate; for collapse several, drawn side by side.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write, as .svg or .pdf.")],
    overwrite: Overwrite = False,
) -> None:
    """Draw what gates tell of themselves, for a paper; 'normgate evaluate --figures' draws what images tell of them."""
    from normgate import tables
    from normgate.gate import Gate
    from normgate.report import check_gate_figure

    check_gate_figure(chart, len(gates), output, overwrite=overwrite)
    from normgate.report import gate_figure

    loaded = {str(folder): Gate.load(folder, device="cpu") for folder in gates}
    gate_figure(chart, loaded, output, overwrite=overwrite)
    tables.print_written(output)


@app.command()
def scores() -> None:
    """List the scores."""
    from normgate import scores as registry

    for name in registry.names():
        typer.echo(f"{name:25} {registry.summary(name)}")


def _open(place: str, labelled: bool, image_column: str, label_column: str, group_column: str | None) -> Source:
    from normgate.data.sources import open_source

    return open_source(
        place,
        labelled=labelled,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
    )


def _neighbours(report: Path | None, place: str | None, overwrite: bool, image_column: str) -> Source | None:
    """What `--report` and `--with-neighbours` ask for, looked at before anything that takes long."""
    if report is None:
        if place is not None:
            from normgate.errors import NormgateError

            raise NormgateError("--with-neighbours shows training images in a report; say where with --report PAGE")
        return None
    from normgate.report import check_report

    check_report(report, overwrite=overwrite)
    return None if place is None else _open(place, False, image_column, "label", None)


@contextlib.contextmanager
def _told_of_parts(output: Path) -> Iterator[None]:
    """Say, where a run is stopped, that what it has done is not lost."""
    from normgate import console
    from normgate.data.names import printable

    try:
        yield
    except BaseException:
        if (folder := output.with_name(output.name + ".run")).exists():
            message = f"the verdicts so far are kept in {folder}; the same command goes on with them"
            console.err.print(printable(message), style="yellow", soft_wrap=True)
        raise


def _paths_on_stdin() -> Source:
    from normgate.data.folders import PathList

    return PathList(os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer if line.strip())


def _named(option: str, texts: list[str] | None) -> list[tuple[str, str]]:
    """NAME and VALUE of a repeatable option NAME=VALUE."""
    from normgate.errors import NormgateError

    pairs = [text.partition("=") for text in texts or []]
    for (name, equals, value), text in zip(pairs, texts or [], strict=True):
        if not (name and equals and value):
            wanted = "NAME=DATA, such as textures=photos/dtd" if option == "--ood" else "NAME=SET,SET"
            raise NormgateError(f"{option} wants {wanted}, not {text!r}")
    names = [name for name, _, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise NormgateError(f"{option} {repeated[0]}=… is given twice; give each its own name")
    return [(name, value) for name, _, value in pairs]


def _set_names(group: str, text: str, sets: list[str]) -> list[str]:
    """The names of `--group NAME=SET,SET`."""
    from normgate.errors import NormgateError

    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise NormgateError(f"--group {group}={text} names a set without a name; write NAME=SET,SET")
    if (split := [name for name in sets if "," in name]) and not set(names) <= set(sets):
        raise NormgateError(f"--group is split at commas, so the set {split[0]!r} needs a name without one")
    return names


def _temperature(text: str) -> Any:
    from normgate.errors import NormgateError

    if text in ("none", "learned"):
        return None if text == "none" else text
    try:
        return float(text)
    except ValueError as error:
        raise NormgateError(f"--temperature wants a number, 'learned' or 'none', not {text!r}") from error


def _stem(text: str) -> Any:
    from normgate.errors import NormgateError

    stems = {"auto": "auto", "standard": None, "1": 1, "2": 2}
    if text not in stems:
        raise NormgateError(f"--stem wants one of {', '.join(stems)}, not {text!r}")
    return stems[text]


def _json_arguments(pairs: list[str], option: str = "--model-arg", example: str = "layers=[1,1,1,1]") -> dict[str, Any]:
    from normgate.errors import NormgateError

    arguments = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if name in arguments:
            raise NormgateError(f"{name} is set twice by {option}; leave one out")
        try:
            arguments[name] = json.loads(value)
        except ValueError as error:
            text = f"; a text needs quotes: '{name}=\"{value}\"'" if value.isidentifier() else ""
            raise NormgateError(f"{option} wants NAME=JSON, such as {example}, not {pair!r}{text}") from error
        if not (name and equals):
            raise NormgateError(f"{option} wants NAME=JSON, such as {example}, not {pair!r}")
    return arguments


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
) -> Gate:
    from normgate.backbones import Backbone, load_weights
    from normgate.data.preprocessing import Preprocessing
    from normgate.errors import NormgateError
    from normgate.gate import Gate
    from normgate.normalization import l2norm

    try:
        names = options["train"].classes if classes is None else classes.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise NormgateError(f"{classes} cannot be read: {error}; it holds one class name a line") from error
    names = [name for line in names if (name := line.strip())]
    backbone = Backbone(model, len(names), width, stem, arguments)
    network = backbone.build()
    tau = None if temperature is None else _temperature(temperature)
    if tau is not None:
        l2norm(network, head=options["head"], temperature=tau)
    if fresh := load_weights(network, weights, options["head"]):
        raise NormgateError(
            f"{weights} holds no head for {len(names)} classes ({', '.join(fresh)}); pass weights that were trained on "
            "these classes, or fine-tune with 'normgate train --weights'"
        )
    return Gate.calibrate(
        network, preprocessing=Preprocessing.load(preprocessing), classes=names, backbone=backbone, **options
    )


def _print_gate(gate: Gate, folder: Path, as_json: bool) -> None:
    from normgate import console
    from normgate.gate.folder import describe

    if as_json:
        # JSON has no infinity: a threshold there accepts every image, or none but those at infinity.
        thresholds = [value if math.isfinite(value) else None for value in gate.calibration.thresholds.tolist()]
        console.print_json({**describe(gate), "thresholds": thresholds, "calibration_images": gate.calibration.n})
    else:
        from normgate.tables import print_gate

        print_gate(gate, folder)


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 some data failed, 2 usage, 3 internal, 4 rejected, 130 Ctrl-C."""
    from normgate import console

    signal.signal(signal.SIGTERM, _ended)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no α must not cost the job
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        console.silence_broken_pipe()
    sys.exit(code)


def _ended(number: int, _: FrameType | None) -> None:
    """End as with Ctrl-C, so that nothing half-written is left."""
    sys.exit(128 + number)


def run(arguments: list[str]) -> int:
    """Run with these arguments and return the exit code."""
    from normgate import console
    from normgate.data.names import printable
    from normgate.errors import NormgateError, ProbeWarning, ToldError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ProbeWarning)  # the commands print what it says
            app(arguments)
    except SystemExit as exit_:
        if isinstance(exit_.__context__, BrokenPipeError):  # whoever read our output went away; Click ends with 1
            return DONE
        if exit_.code == INTERRUPTED:
            console.err.print("interrupted; no output was left half-written", style="yellow")
        return exit_.code if isinstance(exit_.code, int) else DONE
    except ToldError:
        return USAGE
    except NormgateError as error:
        message = "\n".join(map(printable, f"error: {error}".splitlines()))
        console.err.print(message, style="red", soft_wrap=True)
        return USAGE
    except Exception as error:
        if console.debugging():
            raise
        console.err.print(
            f"internal error: {type(error).__name__}: {error}\nThis is a defect of normgate; "
            "run again with NORMGATE_DEBUG=1 for the traceback, and report it.",
            style="red",
            soft_wrap=True,
        )
        return INTERNAL
    return DONE


if __name__ == "__main__":
    main()
