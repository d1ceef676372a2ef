"""docs/results.md, and a table of README.md, out of what other benchmarks wrote: python benchmarks/results_page.py.

Nothing there is typed by hand; a test fails where page and files disagree.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from page import ablations, operation, quality, speed, unmeasured
from page.runs import Runs, runs

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
HEAD = """# Results

What each recipe gives, as it came out, on the machine that each section names. AUROC in points: how well a score tells
test images of the known classes from images of other classes (near) and from other kinds of images (far), each the mean
over sets. Figures are the mean over seeds, and in brackets the smallest and the largest. Nothing here chose a recipe, a
seed or a score: recipes and seeds were written down first, and the score of a gate is chosen by probes made of its
tuning images. One exception: polar was put together with some of these sets at hand ([the method](method.md)).

`benchmarks/quality.py` trains and evaluates, and writes a file a run; `benchmarks/results_page.py` writes this page
from those files. *plain* is cross-entropy on raw features; *l2* is L2 normalisation of the features in training with
τ = 1, the paper's method; *l2-0.1* and *l2-learned* have another τ. *patterns* is l2 with half of the images mixed with
generated patterns (*patterns-all*: all of them), *patterns-rotations* besides with a second task, to tell how far an
image was turned, and *patterns-radial* with a loss that wants probes to have small norms.

*Near* are, for CIFAR-10, CIFAR-100's test images and Tiny-ImageNet's validation images but those of classes that
overlap with CIFAR-10's; for 100 classes of Tiny-ImageNet the other 100; for the hand signs two other signs. *Far* are
MNIST, ten classes of Describable Textures, and Chars74K, characters from street views in the place of SVHN; for the
hand signs satellite tiles and pieces of waste. These are not OpenOOD's sets.

Where no image is held out of those for training, tuning and calibration images are a part of the test images, and no
figure is of them. The 32-pixel packs are JPEG copies (quality 75, chroma halved), known and unknown images alike, so
that no score can win by the codec. Accuracy is lower than on the original pixels, and figures compare with each other,
not with published ones. What is planned and has no result yet stands [at the end](#still-to-be-measured)."""


def page(
    found: Runs,
    variants: ablations.Variants,
    timed: list[dict[str, Any]],
    tried: dict[str, Any],
    measured: dict[str, dict[str, Any]],
) -> str:
    """The whole page."""
    parts = [HEAD, *quality.at_a_glance(found), *quality.sections(found)]
    parts += [*speed.section(timed), *speed.early(timed, found)]
    parts += [*ablations.sections(variants), *ablations.demo_recipe(tried)]
    parts += [*operation.screening(measured), *operation.shift(measured["shift"])]
    parts += unmeasured.section()
    return "\n\n".join(parts) + "\n"


def written() -> str:
    """The page of the files that are there."""
    return page(runs(), ablations.ablations(), speed.speeds(), ablations.trials(), operation.operations())


def main() -> None:
    """Write both."""
    import readme

    PAGE.write_text(written(), encoding="utf-8")
    readme.put("results_page.py", quality.summary(runs()))
    print(PAGE)


if __name__ == "__main__":
    main()
