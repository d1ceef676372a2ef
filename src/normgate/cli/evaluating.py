"""Commands that measure and draw."""

import math
import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from normgate.cli.application import DATA_FAILED
from normgate.cli.arguments import named, neighbours_of, opened_place, score_of, set_names
from normgate.cli.options import (
    PIXELS,
    AsJson,
    BatchSize,
    Device,
    Groups,
    ImageColumn,
    MaxPixels,
    Overwrite,
    Report,
    Results,
    WithNeighbours,
    Workers,
)

if TYPE_CHECKING:
    from normgate.data.sources import Source
    from normgate.evaluation import Evaluation
    from normgate.evaluation.cache import FeatureCache


def evaluate(
    gates: Annotated[
        list[Path],
        typer.Argument(metavar="GATE...", help="A gate; several that differ by their seed give mean, min and max."),
    ],
    known: Annotated[str, typer.Option("--id", metavar="DATA", help="Test images of the known classes.")],
    ood: Annotated[
        list[str] | None, typer.Option("--ood", metavar="NAME=DATA", help="Unknown images; repeatable.")
    ] = None,
    group: Groups = None,
    score: Annotated[
        list[str] | None,
        typer.Option("--score", help="Scores to compare, with settings knn:k=5; by default all; repeatable."),
    ] = None,
    baselines: Annotated[
        list[Path] | None,
        typer.Option("--against", metavar="GATE", help="A gate to compare with, on the same images; repeatable."),
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
    output: Results = None,
    per_image: Annotated[
        Path | None,
        typer.Option("--per-image", metavar="FILE", help="Also write each image's scores, as .parquet or .csv."),
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
    from normgate.evaluation import Against, EvaluationError, against, open_known, over_seeds
    from normgate.evaluation import evaluate as run
    from normgate.evaluation.writing import as_dict, check_without_ood, save
    from normgate.gate import Gate

    outputs = _checked_outputs(gates, output, per_image, report, figures, overwrite)
    if output is not None and not ood:
        check_without_ood(output)
    if baselines and not ood:
        raise NormgateError("--against compares how known images are told from unknown ones; name these with --ood")
    if baselines and len(baselines) != len(gates):
        raise NormgateError(
            f"gates are compared one by one, with those of the same seeds: name {len(gates)} with --against, "
            f"not {len(baselines)}"
        )
    if baselines:
        _warn_of_room(output)
    neighbours = neighbours_of(report, with_neighbours, overwrite, image_column)
    alone = len(gates) == 1 and not baselines

    def opened(place: str | None, labelled: bool) -> "Source | None":
        columns = {"image_column": image_column, "label_column": label_column or "label"}
        return None if place is None else opened_place(place, labelled=labelled, **columns)

    sets = {name: opened_place(place, image_column=image_column) for name, place in named("--ood", ood)}
    groups = {name: set_names(name, text, list(sets)) for name, text in named("--group", group)}
    wanted = [score_of(text, own_name=True) for text in score or []]
    if no_cache and cache is not None:
        raise NormgateError("--cache names a folder for features, and --no-cache keeps none; leave one out")
    features = None if no_cache else _cache(cache, cache_limit)
    test = open_known(known, image_column=image_column, label_column=label_column)
    with console.progress_bars() as progress:
        first = Gate.load(gates[0], device=device)

        def evaluated(folder: Path) -> "Evaluation":
            return run(
                first if folder == gates[0] else Gate.load(folder, device=device),
                test,
                sets,
                scores=wanted or "all",
                groups=groups or None,
                train=opened(train_data, True),
                tuning=opened(tuning, False),
                cache=features,
                batch_size=batch_size,
                workers=workers,
                max_pixels=max_pixels,
                keep_features=(report is not None or figures is not None) and folder == gates[0],
                progress=progress if alone else console.prefixed(f"{folder.name}: ", progress),
            )

        if neighbours is not None:
            from normgate.report import check_neighbours

            check_neighbours(first, neighbours)
        for folder in (*gates[1:], *(baselines or ())):
            if not (folder / "gate.json").is_file():
                Gate.load(folder)  # which says what is there instead, before any work
        evaluations = [evaluated(folder) for folder in gates]
        results = evaluations[0] if len(gates) == 1 else over_seeds(evaluations)
        others = [evaluated(folder) for folder in baselines or ()]
        beside: Against | None = None
        apart: EvaluationError | None = None
        try:
            if others:
                baseline = others[0] if len(others) == 1 else over_seeds(others)
                beside = Against(
                    against(results, baseline),
                    gates=tuple(map(str, baselines or ())),
                    gate_scores=(results.gate_score, baseline.gate_score),
                )
        except EvaluationError as error:  # what was found of the gates is not lost with it
            apart = error
        if output is not None:
            save(results, output, overwrite=overwrite, against=beside)
        if per_image is not None:
            evaluations[0].save_images(per_image, overwrite=overwrite)
    if as_json:
        console.print_json(as_dict(results, beside))
    else:
        tables.print_results(results)
        if beside is not None:
            tables.print_against(results, beside)
    with console.progress_bars() as progress:
        if report is not None:
            from normgate.report import evaluation_report

            evaluation_report(
                first,
                evaluations[0],
                {"id": test, **sets},
                report,
                neighbours=neighbours,
                max_pixels=max_pixels,
                overwrite=overwrite,
                progress=progress,
            )
        if figures is not None:
            from normgate.report import save_figures

            save_figures(first, evaluations[0], figures, overwrite=overwrite)
    for written in () if as_json else outputs:
        tables.print_written(written)
    if apart is not None:
        raise apart
    if any(evaluation.errors for evaluation in (*evaluations, *others)):
        raise typer.Exit(DATA_FAILED)


def compare(
    scores: Annotated[
        list[Path],
        typer.Argument(
            metavar="TABLE...",
            help="Scores of images, .parquet or .csv: columns 'set' and 'id', one a score, and 'wrong' if known.",
        ),
    ],
    known: Annotated[str, typer.Option("--id", metavar="SET", help="The set of the known images.")] = "id",
    group: Groups = None,
    score: Annotated[
        list[str] | None, typer.Option("--score", help="Columns to compare; by default all numbers; repeatable.")
    ] = None,
    negate: Annotated[
        list[str] | None,
        typer.Option("--negate", metavar="SCORE", help="A score whose larger values mean unfamiliar; repeatable."),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="SCORE", help="The score that the others are compared with.")
    ] = None,
    output: Results = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare scores of any detectors on the same images, from tables as 'evaluate --per-image' writes them."""
    from normgate import console, tables
    from normgate.errors import NormgateError, NormgateWarning
    from normgate.evaluation import Against, evaluate_scores, read_image_scores
    from normgate.evaluation.writing import as_dict, save, writer
    from normgate.files import check_output

    if output is not None:
        writer(output)
        check_output(output, overwrite=overwrite)
        if output.resolve() in {table.resolve() for table in scores}:
            raise NormgateError(f"{output} is one of the tables, which it would replace; choose another output")
    if against is not None:
        _warn_of_room(output)
        if score and against not in score:
            score = [*score, against]
    found = read_image_scores(scores, known=known, scores=score or (), negate=negate or ())
    sets = [name for name in found.ids if name != "id"]
    if not sets:
        raise NormgateError(f"there is no other set than {known} in every table; add images that should be rejected")
    groups = {name: set_names(name, text, sets) for name, text in named("--group", group)}
    results = evaluate_scores(found, groups=groups or None)
    beside = None
    if against is not None:
        if against not in results.metrics:
            there = ", ".join(results.metrics)
            raise NormgateError(f"there is no score {against} to compare with; the tables have: {there}")
        comparisons = [results.compare(name, against) for name in results.ranking if name != against]
        if not comparisons:
            raise NormgateError(f"there is no other score than {against} to compare with it; name another table")
        beside = Against(comparisons, score=against)
    if output is not None:
        save(results, output, overwrite=overwrite, against=beside)
    if as_json:
        console.print_json(as_dict(results, beside))
    else:
        tables.print_results(results)
        if beside is not None:
            tables.print_against(results, beside)
        if output is not None:
            tables.print_written(output)
    upside_down = [
        name for name, by_set in results.metrics.items() if all(part.auroc_high < 0.5 for part in by_set.values())
    ]
    for turned in (False, True):
        if names := [name for name in upside_down if results.origins[name]["negated"] == turned]:
            options = " ".join(f"--negate {shlex.quote(name)}" for name in names)
            fix = f"leave out {options}" if turned else f"where larger is meant to say unfamiliar, pass {options}"
            warnings.warn(
                f"{', '.join(names)}: larger on unknown images of every set; {fix}", NormgateWarning, stacklevel=2
            )
    if results.errors:
        raise typer.Exit(DATA_FAILED)


def _warn_of_room(output: Path | None) -> None:
    """Warn where results are written to what does not hold comparisons."""
    from normgate.errors import NormgateWarning

    if output is not None and output.suffix.lower() == ".csv":
        warnings.warn(
            f"{output} has no room for what --against finds; a .json, .md or .tex has", NormgateWarning, stacklevel=2
        )


def _checked_outputs(
    gates: list[Path],
    output: Path | None,
    per_image: Path | None,
    report: Path | None,
    figures: Path | None,
    overwrite: bool,
) -> list[Path]:
    """What is to be written, once all of it can be."""
    from normgate.errors import NormgateError
    from normgate.evaluation.image_tables import check_image_table
    from normgate.evaluation.writing import writer
    from normgate.files import check_output

    if output is not None:
        writer(output)
        check_output(output, overwrite=overwrite)
    if per_image is not None:
        check_image_table(per_image)
        check_output(per_image, overwrite=overwrite)
        if len(gates) > 1:
            raise NormgateError("the scores of images are of one gate; name one, or leave out --per-image")
    if figures is not None:
        from normgate.report import check_figures

        check_figures(figures, overwrite=overwrite)
    outputs = [path for path in (output, per_image, report, figures) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise NormgateError("two outputs have the same name; give each its own")
    if figures is not None and (inside := [path for path in outputs if figures.resolve() in path.resolve().parents]):
        raise NormgateError(
            f"{inside[0]} would lie among the figures, whose folder is theirs alone; choose another place"
        )
    if len(gates) > 1 and (report is not None or figures is not None):
        raise NormgateError("a report and figures are of one gate; name one, or leave out --report and --figures")
    return outputs


def _cache(folder: Path | None, limit: float) -> "FeatureCache | None":
    """The cache, in the user's own folder by default; that this cannot be used must not cost the job."""
    from normgate.cache_folder import default_folder
    from normgate.errors import NormgateError, NormgateWarning
    from normgate.evaluation.cache import CacheError, FeatureCache

    if not math.isfinite(limit):
        raise NormgateError(f"--cache-limit is a number of GiB, not {limit}; to keep no features pass --no-cache")
    try:
        return FeatureCache(folder or default_folder(), limit=int(limit * 2**30))
    except CacheError as error:
        if folder is not None:
            raise
        warnings.warn(str(error), NormgateWarning, stacklevel=2)
        return None


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
