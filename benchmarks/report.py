"""How long a report of 50,000 scored images takes to build, to open and to follow its slider.

    python benchmarks/report.py --gates DIR [--chromium PATH]

Reads the CIFAR-10 gate below DIR (benchmarks/auto.py trains it), scores its test images and enough others, builds the
report, and opens it in a browser: the first paint, and for each move of the slider the time until the page has its new
layout. Writes results/report.json.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

import normgate
import packs
from normgate.report import evaluation_report
from provenance import write

IMAGES = 50_000
MOVES = """() => {
    const slider = document.getElementById("slider"), times = [];
    for (const details of document.querySelectorAll("details")) details.open = true;
    document.body.offsetHeight;
    for (let i = 0; i <= 60; i++) {
        slider.value = Math.round(i / 60 * slider.max);
        const start = performance.now();
        slider.dispatchEvent(new Event("input"));
        document.body.offsetHeight;  // the layout that the move asks for
        times.push(performance.now() - start);
    }
    return times;
}"""
PAINT = """() => new Promise(resolve => new PerformanceObserver(list => {
    const paint = list.getEntries().find(entry => entry.name === "first-contentful-paint");
    if (paint) resolve(paint.startTime);
}).observe({type: "paint", buffered: true}))"""


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=Path, required=True, help="where benchmarks/auto.py trained its gates")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    arguments = parser.parse_args()
    gate = normgate.Gate.load(arguments.gates / "cifar10-0", device="cpu")
    # For time alone: training images of another set stand in for outliers that are not at hand in such numbers.
    images = {
        "id": packs.test_data("cifar10"),
        **packs.ood_data("cifar10"),
        "others": packs.train_data("tinyimagenet100"),
    }
    evaluation = normgate.evaluate(
        gate, images["id"], {k: v for k, v in images.items() if k != "id"}, keep_features=True
    )
    scored = sum(evaluation.images.values())
    assert scored >= IMAGES
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "report.html"
        started = time.perf_counter()
        evaluation_report(gate, evaluation, images, page_file)
        build = time.perf_counter() - started
        browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
        paints, moves = [], []
        for _ in range(5):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(page_file.as_uri())
            paints.append(page.evaluate(PAINT) / 1000)
            moves += page.evaluate(MOVES)
            page.close()
        version = browser.version
        browser.close()
        write(
            "report",
            {
                "seed": 0,
                "images": scored,
                "sets": len(images),
                "build_seconds": build,
                "megabytes": page_file.stat().st_size / 1e6,
                "first_paint_seconds": {"median": statistics.median(paints), "max": max(paints)},
                "slider_milliseconds": {"median": statistics.median(moves), "max": max(moves)},
                "chromium": version,
            },
        )


if __name__ == "__main__":
    main()
