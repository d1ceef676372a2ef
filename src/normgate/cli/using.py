"""Commands that tell of gates and hand them on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from normgate.cli.options import AsJson, Device, GateFolder, GateOrExported, ImageColumn, Overwrite, RuntimeName

if TYPE_CHECKING:
    from normgate.judging import Runtime


def inspect(gate: GateFolder, as_json: AsJson = False) -> None:
    """Say what a gate is, what it promises, what its score would miss, and whether the norm can work."""
    from normgate.gate import Gate
    from normgate.tables import print_each_probe, print_gate, print_geometry

    loaded = Gate.load(gate, device="cpu")
    print_gate(loaded, gate, as_json=as_json)
    if not as_json:
        if loaded.probes is not None and not loaded.probes.too_few:
            print_each_probe(loaded.probes, loaded.score.name)
        print_geometry(loaded)


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


def serve(
    gate: GateOrExported,
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


def scores() -> None:
    """List the scores, with the settings that --score NAME:SETTING=VALUE changes and their defaults."""
    from normgate import scores as registry

    for name in registry.names():
        settings = {key: value for key, value in registry.create(name).settings.items() if key != "space"}
        said = ", ".join(f"{key}={json.dumps(value)}" for key, value in settings.items())
        typer.echo(f"{name:25} {registry.summary(name)}" + (f" ({said})" if said else ""))
