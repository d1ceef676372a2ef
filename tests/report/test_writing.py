"""Reports as files: whole, self-contained, private until told otherwise, and safe whatever things are called."""

from __future__ import annotations

import dataclasses
import functools
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import normgate
from normgate import Evaluation, Gate, NormgateWarning
from normgate.collapse.norms import norms_of
from normgate.data.sources import Records, open_source
from normgate.evaluation import over_seeds
from normgate.files import OutputError
from normgate.neighbours import NeighbourError
from normgate.report import ReportError, checks, evaluation_report, figures, save_figures, screening_report, sections
from normgate.report.checks import NAMES
from normgate.screening import screen
from samples import CLASSES, PREPROCESSING, random_records, small_network

ODD = [np.full((8, 8, 3), i, np.uint8) for i in range(30)]
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


@functools.cache
def gate(lean: bool = False, by_class: bool = False) -> Gate:
    return Gate.calibrate(
        small_network(),
        preprocessing=PREPROCESSING,
        train=random_records(60, 1),
        tuning=random_records(60, 2),
        calibration=random_records(300, 3),
        score="mahalanobis",
        false_alarm_rate=0.1,
        lean=lean,
        by_class=by_class,
    )


@functools.cache
def evaluated(made: Gate) -> Evaluation:
    return normgate.evaluate(made, random_records(50, 5), {"flat": ODD}, keep_features=True)


IMAGES = {"id": random_records(50, 5), "flat": ODD}


SAMPLED = "Sets are measured on up to 2,000 of their images each"


def data_of(page: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found)


class Elements(html.parser.HTMLParser):
    """Every tag with its attributes, and what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_holds_what_happened(tmp_path: Path) -> None:
    evaluation = evaluated(gate())
    evaluation_report(gate(), evaluation, IMAGES, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert evaluation.outcome is not None
    assert f"{100 * evaluation.outcome.realised:.2f} %" in page
    assert f"{100 * evaluation.metrics['mahalanobis']['flat'].auroc:.1f}" in page
    known, flat = data_of(page)["sets"]
    start = data_of(page)["start"]
    assert known["rejected"][start] == round(50 * evaluation.outcome.realised)
    assert flat["rejected"][start] == round(30 * evaluation.outcome.rejected["flat"])


def test_the_page_loads_nothing_and_allows_only_itself(tmp_path: Path) -> None:
    evaluation_report(gate(), evaluated(gate()), IMAGES, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    elements = Elements(page).found
    policies = [own["content"] for tag, own in elements if own.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policies[0]
    for tag, own in elements:
        assert not any(name.startswith("on") or name == "style" for name in own), (tag, own)
        assert str(own.get("src", "data:")).startswith("data:")
        assert str(own.get("href", "#")).startswith(("#", "data:"))
    assert [tag for tag, _ in elements].count("script") == 2


@pytest.mark.parametrize("where", ["id", "class", "set"])
def test_hostile_names_are_text(where: str, tmp_path: Path) -> None:
    made = gate()
    if where == "class":
        made = dataclasses.replace(made, classes=(HOSTILE, *CLASSES[1:]))
    known = random_records(50, 5)
    if where == "id":
        known = Records([dataclasses.replace(record, id=f"{i}{HOSTILE}") for i, record in enumerate(known)], CLASSES)
    elif where == "class":
        labels = [HOSTILE if record.label == CLASSES[0] else record.label for record in known]
        pairs = zip(known, labels, strict=True)
        known = Records([dataclasses.replace(record, label=label) for record, label in pairs], made.classes)
    name = HOSTILE if where == "set" else "flat"
    evaluation = normgate.evaluate(made, known, {name: ODD}, scores=["norm"], keep_features=True)
    evaluation_report(made, evaluation, {"id": known, name: ODD}, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    tags = [tag for tag, _ in Elements(page).found]
    assert tags.count("script") == 2
    assert all(own.get("src", "").startswith("data:") for tag, own in Elements(page).found if tag == "img")
    assert "alert(2)" in page  # it is shown


def test_training_images_are_private_until_someone_says_otherwise(tmp_path: Path) -> None:
    train = random_records(60, 1)
    evaluation_report(gate(), evaluated(gate()), IMAGES, tmp_path / "r.html")
    assert "training image " not in (tmp_path / "r.html").read_text(encoding="utf-8")
    evaluation_report(gate(), evaluated(gate()), IMAGES, tmp_path / "n.html", neighbours=train)
    page = (tmp_path / "n.html").read_text(encoding="utf-8")
    assert "training image " in page
    assert "share it as you would share these" in page


def test_the_nearest_training_image_of_a_training_image_is_itself(tmp_path: Path) -> None:
    from normgate.report.gallery import galleries
    from normgate.report.scored import of_evaluation

    train = random_records(60, 1)
    evaluation = normgate.evaluate(gate(), train, {}, scores=["norm"], keep_features=True)
    shown = galleries(gate(), of_evaluation(gate(), evaluation), {"known images": train}, train)["known images"]
    for card in (*shown.least, *shown.most, *shown.spread):
        nearest, *others = card.neighbours
        assert nearest.id == card.id
        assert nearest.cosine == pytest.approx(1, abs=1e-5)
        assert nearest.cosine >= max(other.cosine for other in others)


def test_the_images_given_stay_as_they_are(tmp_path: Path) -> None:
    shown = [Image.new("RGB", (200, 200), (8 * i, 9, 255 - 8 * i)) for i in range(30)]
    evaluation = normgate.evaluate(gate(), shown, {}, scores=["mahalanobis"], keep_features=True)
    evaluation_report(gate(), evaluation, {"id": shown}, tmp_path / "r.html")
    assert {image.size for image in shown} == {(200, 200)}


def test_training_images_may_be_larger_than_those_that_are_shown() -> None:
    from normgate.report.gallery import galleries
    from normgate.report.scored import of_evaluation

    small = [np.full((4, 4, 3), i, np.uint8) for i in range(30)]
    evaluation = normgate.evaluate(gate(), small, {}, scores=["mahalanobis"], keep_features=True)
    sets = of_evaluation(gate(), evaluation)
    source = open_source(small, labelled=False)
    shown = galleries(gate(), sets, {"known images": source}, random_records(60, 1), max_pixels=16)["known images"]
    found = [neighbour.thumbnail for card in shown.least for neighbour in card.neighbours]
    assert len(found) > 0
    assert all(uri.startswith("data:image/webp") for uri in found)


def test_other_images_are_no_training_images(tmp_path: Path) -> None:
    with pytest.raises(NeighbourError, match="the images that the gate was trained on"):
        evaluation_report(gate(), evaluated(gate()), IMAGES, tmp_path / "r.html", neighbours=random_records(60, 9))
    lean = gate(lean=True)
    evaluation = normgate.evaluate(lean, random_records(50, 5), {}, scores=["norm"], keep_features=True)
    with pytest.raises(NeighbourError, match="lean"):
        evaluation_report(lean, evaluation, IMAGES, tmp_path / "r.html", neighbours=random_records(60, 1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("options", [{"lean": True}, {"by_class": True}])
def test_other_gates_and_unlabelled_images(options: dict[str, bool], labelled: bool, tmp_path: Path) -> None:
    made, known = gate(**options), random_records(50, 5, labelled)
    evaluation = normgate.evaluate(made, known, {}, scores=["mahalanobis"], keep_features=True)
    evaluation_report(made, evaluation, {"id": known}, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert (data_of(page)["thresholds"] is None) == ("by_class" in options)
    unknown = "the gate keeps no training features, and the known images have no labels" in page
    assert unknown == (options == {"lean": True} and not labelled)
    assert (data_of(page)["sets"][0]["right"] is None) == (not labelled)


def test_a_sample_of_images_is_shown_and_all_are_counted(tmp_path: Path) -> None:
    many = random_records(3000, 7)
    evaluation = normgate.evaluate(gate(), many, {"flat": ODD * 50}, scores=["mahalanobis"], keep_features=True)
    evaluation_report(gate(), evaluation, {"id": many, "flat": ODD * 50}, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    known, flat = data_of(page)["sets"]
    assert (known["images"], flat["images"]) == (3000, 1500)
    assert SAMPLED in page
    assert len([1 for tag, _ in Elements(page).found if tag == "img"]) < 250


def test_screening(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, record in enumerate(random_records(40, 5)):
        Image.fromarray(record.payload).save(folder / f"{i:02d}.png")
    (folder / "broken.png").write_bytes(b"no image")
    pages: list[str] = []

    def write(summary: normgate.screening.Summary) -> None:
        screening_report(gate(), tmp_path / "v.parquet", folder, summary, tmp_path / "r.html")
        pages.append((tmp_path / "r.html").read_text(encoding="utf-8"))

    summary = screen(
        gate(), folder, tmp_path / "v.parquet", rejected="move", rejected_to=tmp_path / "rejected", written=write
    )
    (page,) = pages
    assert summary.rejected > 0
    (screened,) = data_of(page)["sets"]
    assert screened["images"] == 40
    assert SAMPLED not in page
    assert screened["rejected"][data_of(page)["start"]] == summary.rejected
    assert "cannot be read any more" not in page  # it was written before the files were moved
    assert "1 of <bdi>screened images</bdi> could not be read" in page
    assert "broken.png" in page
    # Afterwards they are gone, and the page says so; what lies beside the parts of a table is none of it.
    (tmp_path / "v").mkdir()
    (tmp_path / "v.parquet").rename(tmp_path / "v" / "part-00000.parquet")
    (tmp_path / "v" / "notes.txt").write_text("mine")
    screening_report(gate(), tmp_path / "v", folder, summary, tmp_path / "later.html")
    assert "cannot be read any more" in (tmp_path / "later.html").read_text(encoding="utf-8")
    # Nor do columns that others have added, in types of their own, keep it from being written.
    table = pq.read_table(tmp_path / "v" / "part-00000.parquet")
    wide = table.set_column(0, "id", table["id"].cast(pa.large_string())).append_column("mine", table["score"])
    pq.write_table(wide, tmp_path / "wide.parquet")
    screening_report(gate(), tmp_path / "wide.parquet", folder, summary, tmp_path / "wide.html")
    assert "broken.png" in (tmp_path / "wide.html").read_text(encoding="utf-8")
    pq.write_table(table.drop_columns("score"), tmp_path / "narrow.parquet")
    with pytest.raises(ReportError, match=r"narrow\.parquet is no table of verdicts"):
        screening_report(gate(), tmp_path / "narrow.parquet", folder, summary, tmp_path / "narrow.html")


def test_what_cannot_be_written_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = evaluated(gate())
    with pytest.raises(ReportError, match=r"name it report\.html"):
        evaluation_report(gate(), evaluation, IMAGES, tmp_path / "report.pdf")
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        evaluation_report(gate(), evaluation, IMAGES, tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "mine"
    with pytest.raises(ReportError, match="flat are needed"):
        evaluation_report(gate(), evaluation, {"id": IMAGES["id"]}, tmp_path / "s.html")
    bare = dataclasses.replace(evaluation, features=None)
    with pytest.raises(ReportError, match="keep_features=True"):
        evaluation_report(gate(), bare, IMAGES, tmp_path / "s.html")
    other = dataclasses.replace(evaluation, gate_score="norm")
    with pytest.raises(ReportError, match="another gate"):
        evaluation_report(gate(), other, IMAGES, tmp_path / "s.html")
    monkeypatch.setattr(checks, "NEEDED", ("altair", "a_library_that_is_not_there"))
    with pytest.raises(ReportError, match=r"need a_library_that_is_not_there: pip install 'normgate\[report\]'"):
        evaluation_report(gate(), evaluation, IMAGES, tmp_path / "s.html")


def test_figures(tmp_path: Path) -> None:
    names = save_figures(gate(), evaluated(gate()), tmp_path / "figures")
    assert {Path(name).stem for name in names} == set(NAMES) - {"collapse"}  # no epoch was logged
    assert {path.name for path in (tmp_path / "figures").iterdir()} == set(names)
    with pytest.raises(OutputError, match="exists"):
        save_figures(gate(), evaluated(gate()), tmp_path / "figures")
    only = save_figures(gate(), evaluated(gate()), tmp_path / "figures", formats=[".svg"], overwrite=True)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == set(only)
    (tmp_path / "figures" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        save_figures(gate(), evaluated(gate()), tmp_path / "figures", overwrite=True)
    with pytest.raises(ReportError, match=r"\.svg or \.pdf, not \.bmp"):
        save_figures(gate(), evaluated(gate()), tmp_path / "other", formats=[".bmp"])


@functools.cache
def grouped() -> Evaluation:
    """Of a near and a far group, on which scores come in another order."""
    return normgate.evaluate(
        gate(),
        random_records(50, 5),
        {"near": random_records(40, 8), "flat": ODD[9:], "dark": ODD[:9]},
        groups={"near & co": ["near"], "far": ["flat", "dark"]},
        keep_features=True,
    )


def test_every_group_has_its_false_positives() -> None:
    evaluation = grouped()
    found = sections.comparison(figures.comparison_charts(evaluation), evaluation)
    assert found is not None
    table, means = found["table"], evaluation.means
    assert table["columns"] == ["score", "near", "flat", "dark", "mean far", "FPR near & co", "FPR far"]
    for score, row in zip(evaluation.ranking, table["rows"], strict=True):
        expected = [100 * means[score][group].fpr_at_id_tpr95 for group in ("near & co", "far")]
        assert row["cells"][-2:] == [f"{value:.1f}" for value in expected]
    assert any(row["cells"][-1] != row["cells"][-2] for row in table["rows"])
    assert "Groups: near & co: near; far: mean of flat, dark." in found["lines"]
    assert any("fpr_at_id_tpr95" in line and "mean of the sets of each group" in line for line in found["lines"])
    assert table["caption"].endswith("best mean of all sets first")


def test_every_group_is_drawn_best_first_and_the_best_of_each_is_said() -> None:
    evaluation = grouped()
    drawn = figures.comparison_charts(evaluation)
    best = []
    for width in (150, 620):
        panels = drawn["scores"](width).to_dict()["concat"]
        assert [panel["title"]["text"].strip() for panel in panels] == ["near & co: near", "far: mean of flat, dark"]
        data = drawn["scores"](width).to_dict()["datasets"]
        for panel, group in zip(panels, evaluation.groups, strict=True):
            (rows,) = {layer.get("data", panel.get("data"))["name"] for layer in panel["layer"]}
            shown = {row["score"].removesuffix(" ◂ gate"): row["auroc"] for row in data[rows]}
            assert list(shown.values()) == sorted(shown.values(), reverse=True)
            assert shown == {name: 100 * means[group].auroc for name, means in evaluation.means.items()}
            best.append(next(iter(shown)))
    found = sections.comparison(drawn, evaluation)
    assert found is not None
    assert best[0] != best[1]  # or the order of all sets would do
    assert f"the best is {best[0]} on near & co, {best[1]} on far." in found["said"]


def test_without_groups_there_is_one_chart_of_the_mean() -> None:
    evaluation = evaluated(gate())
    drawn = figures.comparison_charts(evaluation)
    found = sections.comparison(drawn, evaluation)
    assert found is not None
    assert "concat" not in drawn["scores"](300).to_dict()
    assert found["table"]["columns"] == ["score", "flat", "fpr_at_id_tpr95"]
    assert f"the best is {evaluation.ranking[0]}. The table" in found["said"]
    assert not any(line.startswith("Groups") for line in found["lines"])
    none = normgate.evaluate(gate(), random_records(50, 5), {"flat": ODD}, scores=["norm"], groups={})
    assert figures.comparison_charts(none) == {}


def test_what_is_no_gate_or_no_single_evaluation_is_told(tmp_path: Path) -> None:
    evaluation = evaluated(gate())
    bare = dataclasses.replace(evaluation, gate_score=None, outcome=None, gate=None)
    seeds = over_seeds([evaluation, evaluation])
    for said, made, given in (
        (r"need the gate that was evaluated, and not NoneType; Gate\.calibrate", None, bare),
        (r"need the gate that was evaluated, and not str: normgate\.Gate\.load\('g'\)", "g", evaluation),
        ("of one Evaluation, and not of a SeedSummary; draw each of its evaluations", None, seeds),
        ("of one Evaluation, and not of a SeedSummary; draw each of its evaluations", gate(), seeds),
        ("of another gate, or of a network without one", gate(), bare),
    ):
        with pytest.raises(ReportError, match=said):
            evaluation_report(made, given, IMAGES, tmp_path / "r.html")
        with pytest.raises(ReportError, match=said):
            save_figures(made, given, tmp_path / "figures")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "names",
    [
        ("known images", "known images*"),
        ("training images", "train"),
        ("wrong predictions alone", "calibration images"),
        ("constructor", "toString"),
        ("site-north-camera-07-all-photos-of-2023-day", "site-north-camera-07-all-photos-of-2023-night"),
        ("n\udcff", "a" * 300),
    ],
)
def test_sets_may_be_called_anything(names: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also as our own rows are, as words of the chart library, alike for long, and not in UTF-8."""
    first, second = names
    sets = {first: ODD, second: [record.payload for record in random_records(7, 8)]}
    evaluation = normgate.evaluate(gate(), random_records(50, 5), sets, scores=["mahalanobis"], keep_features=True)
    evaluation_report(gate(), evaluation, {"id": random_records(50, 5), **sets}, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "ERROR" not in capfd.readouterr().err
    assert evaluation.outcome is not None
    found = data_of(page)
    counts = [part["rejected"][found["start"]] for part in found["sets"]]
    assert [part["images"] for part in found["sets"]] == [50, 30, 7]
    outcome = evaluation.outcome
    assert counts == [
        round(50 * outcome.realised),
        round(30 * outcome.rejected[first]),
        round(7 * outcome.rejected[second]),
    ]
    assert all(count <= images for count, images in zip(found["sets"][0]["right"], [50] * 999, strict=False))
    # A plot for each set, and a row for each in norms by set: bars, medians and ranges of four.
    save_figures(gate(), evaluation, tmp_path / "figures", formats=[".svg"])
    assert (tmp_path / "figures" / "distributions.svg").read_text().count("mark-rect role-mark") >= 3


def test_a_large_image_that_was_scored_is_shown(tmp_path: Path) -> None:
    big = [Image.fromarray(np.full((60, 60, 3), i, np.uint8)) for i in range(30)]
    evaluation = normgate.evaluate(gate(), random_records(50, 5), {"big": big}, scores=["norm"], keep_features=True)
    images = {"id": random_records(50, 5), "big": big}
    for most, hidden in ((4000, False), (1000, True)):
        evaluation_report(gate(), evaluation, images, tmp_path / "r.html", max_pixels=most, overwrite=True)
        assert ("cannot be read any more" in (tmp_path / "r.html").read_text(encoding="utf-8")) == hidden


def test_without_unknown_sets_probes_say_whether_the_norm_works(tmp_path: Path) -> None:
    evaluation = normgate.evaluate(gate(), random_records(50, 5), {}, scores=["norm"], keep_features=True)
    evaluation_report(gate(), evaluation, {"id": random_records(50, 5)}, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert gate().probes is not None
    assert gate().probes.informative
    assert "Nothing measured here speaks against the norm" not in page
    assert "magnitude carries" in page or "neither norms nor directions" in page


@pytest.mark.parametrize("lean", [True, False])
def test_without_unknown_sets_norms_are_of_the_images_that_are_named(lean: bool) -> None:
    """Of the tuning images where probes stand for unknown ones, and else of the known images themselves."""
    made = gate(lean=lean)
    evaluation = normgate.evaluate(made, random_records(3000, 7), {}, scores=["mahalanobis"], keep_features=True)
    measured = figures.measured_geometry(made, evaluation.features)
    assert measured is not None
    assert ("id" in measured.norms) == lean
    tuning = made.kept.get("tuning")
    if tuning is not None:
        assert measured.norms["tuning images"].mean == pytest.approx(float(norms_of(tuning).mean()))


def test_probes_that_were_trained_on_are_named() -> None:
    probed = dataclasses.replace(gate().probes, trained_on=("noise", "pose"))
    said = sections.probes({}, dataclasses.replace(gate(), probes=probed))["lines"]
    assert "Left out, since the network was trained on them: noise, pose." in said
    assert not any("trained on" in line for line in sections.probes({}, gate())["lines"])


def test_images_that_were_not_scored_are_not_shown(tmp_path: Path) -> None:
    """In memory they have numbers for names, so that another order would put other pictures beside the scores."""
    turned = {**IMAGES, "flat": ODD[::-1]}
    with pytest.warns(NormgateWarning, match="images of flat are not those that were scored"):
        evaluation_report(gate(), evaluated(gate()), turned, tmp_path / "r.html")
    evaluation_report(gate(), evaluated(gate()), IMAGES, tmp_path / "right.html")
    pages = [(tmp_path / name).read_text(encoding="utf-8") for name in ("r.html", "right.html")]
    shown, right = ({own["src"] for tag, own in Elements(page).found if tag == "img"} for page in pages)
    assert shown < right


def test_properties_are_of_the_images_that_were_scored() -> None:
    evaluation = evaluated(gate())
    assert evaluation.features is not None
    known = random_records(50, 5)
    pixels = [record.payload for record in known]
    moved = Records(
        [dataclasses.replace(record, payload=pixels[(i + (i >= 25)) % 50]) for i, record in enumerate(known)], CLASSES
    )
    right, half, some, none = (
        figures.measured_geometry(gate(), evaluation.features, images)
        for images in (known, moved, known[:25], random_records(50, 6))
    )
    assert right is not None
    assert half is not None
    assert some is not None
    assert none is not None
    assert half.correlations == some.correlations != right.correlations
    assert none.correlations == {}
