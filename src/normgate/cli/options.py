"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

GateFolder = Annotated[Path, typer.Argument(metavar="GATE", help="Folder of a gate.")]
GateOrExported = Annotated[
    Path, typer.Argument(metavar="GATE", help="Folder of a gate, or the file that 'normgate export' has made of it.")
]
Images = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="Labelled images: class folders, Parquet, tars, an address of these or torchvision:NAME."
    ),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to write; appears whole or not at all.")]
Alpha = Annotated[
    float, typer.Option("--alpha", help="False-alarm rate: share of familiar images that may be rejected, on average.")
]
ByClass = Annotated[bool, typer.Option("--by-class", help="A threshold for each predicted class.")]
Lean = Annotated[bool, typer.Option("--lean", help="Keep no features in the gate.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps, …; by default what is there.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images in a forward pass.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="Decoding threads; by default one a core, up to 8.")
]
MaxPixels = Annotated[int, typer.Option("--max-pixels", min=1, help="Larger images are errors.")]
DropDuplicates = Annotated[
    bool, typer.Option("--drop-duplicates", help="Leave images that two sets share out of the later set.")
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Go on without images that cannot be read or judged.")
]
ImageColumn = Annotated[str, typer.Option("--image-column", help="Parquet column of the images.")]
LabelColumn = Annotated[str, typer.Option("--label-column", help="Parquet column of the labels.")]
GroupColumn = Annotated[
    str | None,
    typer.Option("--group-column", help="Parquet column of groups (person, scene) that no split divides."),
]
ScoreName = Annotated[
    str,
    typer.Option(
        "--score",
        help="Score of the gate, knn or with settings knn:k=5; 'auto' lets probes choose; see 'normgate scores'.",
    ),
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
Groups = Annotated[
    list[str] | None,
    typer.Option("--group", metavar="NAME=SET,SET", help="Unknown sets whose mean is taken; by default all."),
]
Results = Annotated[
    Path | None, typer.Option("-o", "--output", help="Also write the results, as .json, .csv, .md or .tex.")
]
