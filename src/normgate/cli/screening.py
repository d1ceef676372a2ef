"""The command that judges images."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from normgate.cli.application import DATA_FAILED, DONE, REJECTED
from normgate.cli.arguments import check_order, neighbours_of, opened_place
from normgate.cli.options import (
    PIXELS,
    AsJson,
    BatchSize,
    Device,
    GateOrExported,
    ImageColumn,
    MaxPixels,
    Overwrite,
    Report,
    RuntimeName,
    WithNeighbours,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from normgate.data.sources import Source
    from normgate.judging import Runtime
    from normgate.screening import Engine, Summary


def screen(
    gate: GateOrExported,
    incoming: Annotated[
        str,
        typer.Argument(
            metavar="INCOMING",
            help="A folder, an image, Parquet, tars, a pattern or an address of these (s3://…), or '-' for paths on "
            "standard input, one a line or as of find -print0.",
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

    A run that was stopped goes on when the same command is given again; with --overwrite, if its table is there.
    """
    from normgate import console, tables
    from normgate.errors import NormgateError
    from normgate.gate import Gate
    from normgate.judging import check_runtime, choose_judge, load_judge
    from normgate.runtime import is_exported
    from normgate.screening import check_engine, rejected_ids
    from normgate.screening import screen as run

    check_runtime(runtime, exported=is_exported(gate))
    check_engine(engine, address)
    check_order("screen", gate, incoming)
    neighbours = neighbours_of(report, with_neighbours, overwrite, image_column)
    if report is not None and is_exported(gate):
        raise NormgateError(
            f"a report shows what only a gate's folder has, not {gate}; name the folder or, with a network of your "
            "own, screen and write the report (normgate.report.screening_report) in Python"
        )
    if copy_rejected is not None and move_rejected is not None:
        raise NormgateError("--copy-rejected and --move-rejected exclude each other")
    of_many = (fdr, copy_rejected, move_rejected, report, shift_alarm)
    about_many = list_rejected or any(value is not None for value in of_many)
    one = output is None and incoming != "-" and _is_one_image(incoming, image_column)
    if one and not about_many:
        loaded = load_judge(gate, device=device)
        # To export a graph takes longer than to judge one image.
        judge = loaded if runtime == "auto" else choose_judge(loaded, cast("Runtime", runtime)).judge
        verdict = judge([incoming], max_pixels=max_pixels)[0]
        tables.print_verdict(verdict, as_json=as_json)
        code = DATA_FAILED if verdict.error else REJECTED if fail_on_reject and not verdict.accepted else DONE
        raise typer.Exit(code)
    if output is None:
        if incoming != "-":
            opened_place(incoming, image_column=image_column)  # where there is nothing, that is what to say
        table = "with such options there is a table of verdicts: " if one else ""
        raise NormgateError(f"{table}say where to write the verdicts: -o verdicts.parquet")
    with console.progress_bars() as progress, _told_of_parts():
        loaded = load_judge(gate, device=device, threads=1)
        images = (
            _paths_on_stdin(again=report is not None)
            if incoming == "-"
            else opened_place(incoming, image_column=image_column)
        )
        if neighbours is not None:
            from normgate.report import check_neighbours

            assert isinstance(loaded, Gate)  # or there would be no report to show them
            check_neighbours(loaded, neighbours)

        def write_report(found: "Summary") -> None:
            from normgate.report import screening_report

            assert report is not None
            assert isinstance(loaded, Gate)
            screening_report(
                loaded,
                output,
                images,
                found,
                report,
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
        tables.print_written(report, aside=list_rejected)
    if summary.unreadable:
        raise typer.Exit(DATA_FAILED)
    if fail_on_reject and summary.rejected:
        raise typer.Exit(REJECTED)


def _is_one_image(place: str, image_column: str) -> bool:
    """Whether a place is one file, here or elsewhere, that has a verdict and no table of verdicts."""
    from normgate.data import addresses
    from normgate.data.folders import FlatFolder
    from normgate.data.kinds import kind_of

    if addresses.is_address(place):
        found = opened_place(place, image_column=image_column)
        return isinstance(found, FlatFolder) and found.is_one_file
    path = addresses.local_path(place)
    return os.path.isfile(path) and kind_of(path) not in ("tables", "shards")  # noqa: PTH113 (any text)


@contextlib.contextmanager
def _told_of_parts() -> "Iterator[None]":
    """Say, where a run is stopped, what is noted of it: that what it has done is not lost."""
    from normgate import console
    from normgate.data.names import printable

    try:
        yield
    except BaseException as error:
        for note in getattr(error, "__notes__", []):
            console.err.print(printable(note), style="yellow", soft_wrap=True)
        raise


def _paths_on_stdin(*, again: bool) -> "Source":
    """Paths as they come, or all of them, where they are to be run through again."""
    from normgate.data.folders import PathList, listed_names

    paths = map(os.fsdecode, listed_names(cast("BufferedReader", sys.stdin.buffer)))
    return PathList(list(paths) if again else paths)
