"""What can be asked of an evaluation afterwards, and what it looks like in a file."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import csv as arrow_csv

import normgate
from normgate import NormgateWarning, metrics, scores
from normgate.evaluation import Evaluation, EvaluationError, against, evaluate_features, over_seeds
from normgate.features import Features
from normgate.files import OutputError
from samples import random_features

GROUPS = {"near": ("odd",), "far": ("odd", "other")}


def evaluation(seed: int = 1, labelled: bool = True) -> Evaluation:
    """Of no gate; one that pretends to be of a gate whose score is energy."""
    known = random_features(60, seed)
    if not labelled:
        known = known.__class__(known.z, known.logits, known.weight, known.bias, known.temperature, known.ids)
    features = {"id": known, "odd": random_features(30, seed + 100), "other": random_features(40, seed + 200)}
    features["odd"].z.mul_(0.5)
    found = evaluate_features(None, features, scores=["norm", "energy", "knn"], groups=GROUPS, train=known_train())
    object.__setattr__(found, "gate_score", "energy")
    return found


def known_train() -> object:
    return random_features(90, 7)


def test_curves() -> None:
    found = evaluation()
    known, odd = found.values["norm"]["id"], found.values["norm"]["odd"]
    assert found.wrong is not None
    assert found.risk_coverage("norm", "wrong").aurc == metrics.aurc(known, found.wrong) == found.aurc_wrong["norm"]
    assert found.risk_coverage("norm", "both", "odd").aurc == found.metrics["norm"]["odd"].aurc_both
    outliers = found.risk_coverage("norm", "outliers", "odd")
    assert outliers.aurc == metrics.open_set_risk_coverage(known, odd).aurc
    with pytest.raises(EvaluationError, match="'flat' is no OoD set; choose from: odd, other"):
        found.risk_coverage("norm", "both", "flat")
    with pytest.raises(EvaluationError, match="dice was not computed; choose from: norm, energy, knn"):
        found.risk_coverage("dice", "wrong")
    with pytest.raises(EvaluationError, match="errors are 'wrong', 'outliers' or 'both', not 'outlier'"):
        found.risk_coverage("norm", "outlier", "odd")
    with pytest.raises(EvaluationError, match="no labels"):
        evaluation(labelled=False).risk_coverage("norm", "both", "odd")


def test_differences_to_the_gates_score() -> None:
    found = evaluation()
    assert set(found.differences) == {"norm", "knn"}
    there, back = found.compare("norm", "energy"), found.compare("energy", "norm")
    assert found.differences["norm"] == there
    assert there.sets["odd"].difference == -back.sets["odd"].difference
    expected = found.metrics["norm"]["odd"].auroc - found.metrics["energy"]["odd"].auroc
    assert there.sets["odd"].difference == pytest.approx(expected, abs=1e-15)
    assert set(there.means) == {"near", "far"}


def test_scores_are_ranked_by_their_mean() -> None:
    found = evaluation()
    means = [np.mean([part.auroc for part in found.metrics[score].values()]) for score in found.ranking]
    assert means == sorted(means, reverse=True)


def test_json_has_everything_but_the_images(tmp_path: Path) -> None:
    found = evaluation()
    found.save(tmp_path / "r.json")
    read = json.loads((tmp_path / "r.json").read_text())
    assert read["metrics"]["norm"]["odd"]["auroc"] == found.metrics["norm"]["odd"].auroc
    assert read["means"]["norm"]["far"]["auroc_low"] == found.means["norm"]["far"].auroc_low
    assert read["differences"]["norm"]["means"]["far"]["high"] == found.differences["norm"].means["far"].high
    assert "weigh as much" in read["definitions"]["aurc_both"]
    assert len(read["risks"]["norm"]["both"]["odd"]) == len(read["coverages"]) == 10
    assert "values" not in read
    assert found.to_dict(images=True)["values"]["norm"]["odd"] == found.values["norm"]["odd"].tolist()
    with pytest.raises(OutputError, match="exists"):
        found.save(tmp_path / "r.json")


def test_csv_has_a_row_a_score_and_set(tmp_path: Path) -> None:
    found = evaluation()
    found.save(tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (2 + 2)
    assert len({(row["score"], row["kind"], row["set"]) for row in rows}) == len(rows)
    row = next(row for row in rows if (row["score"], row["kind"], row["set"]) == ("knn", "set", "other"))
    assert {key: float(row[key]) for key in vars(found.metrics["knn"]["other"])} == vars(found.metrics["knn"]["other"])
    assert float(row["aurc_wrong"]) == found.aurc_wrong["knn"]
    assert float(row["auroc_minus_gate_low"]) == found.differences["knn"].sets["other"].low
    assert [row["auroc_minus_gate"] for row in rows if row["gate"] == "True"] == [""] * 4


def test_markdown_says_how_outliers_are_weighted(tmp_path: Path) -> None:
    evaluation().save(tmp_path / "r.md")
    text = (tmp_path / "r.md").read_text()
    assert "together weigh as much as the known images together" in text
    for heading in ("auroc", "ap_id", "ap_ood", "fpr_at_id_tpr95", "fpr_at_ood_tpr95", "aurc_wrong", "aurc_both"):
        assert f"## {heading}\n" in text
    assert "| energy (gate) |" in text
    found = evaluation()
    part = found.means["knn"]["far"]
    assert f"{100 * part.auroc:.1f} ({100 * part.auroc_low:.1f}–{100 * part.auroc_high:.1f}) |\n" in text
    assert found.table("ap_id").splitlines()[0] == "| score | odd | other | mean far |"
    with pytest.raises(EvaluationError, match="no metric 'auc'; choose from: auroc"):
        found.table("auc")
    evaluation(labelled=False).save(tmp_path / "unlabelled.md")
    assert "aurc_both" not in (tmp_path / "unlabelled.md").read_text()


def test_latex_has_the_tables_of_markdown(tmp_path: Path) -> None:
    for name, found in (("one", evaluation()), ("seeds", over_seeds([evaluation(1), evaluation(2)]))):
        for suffix in (".md", ".tex"):
            found.save(tmp_path / f"{name}{suffix}")
        tex, md = ((tmp_path / f"{name}{suffix}").read_text() for suffix in (".tex", ".md"))
        plain = tex.replace(r"\_", "_").replace("--", "–").replace(r"\%", "%")
        lines = [line.removeprefix("{}").removesuffix(r" \\") for line in plain.splitlines() if line.endswith(r"\\")]
        rows = [line.split(" & ") for line in lines]
        table = [
            line.strip("| ").split(" | ") for line in md.splitlines() if line.startswith("|") and "---" not in line
        ]
        assert rows == table
        assert tex.count(r"\begin{table}") == tex.count(r"\bottomrule") == md.count("\n## ")
        assert r"\begin{tabular}{lrrr}" in tex
    features = {"id": random_features(20, 1), "a&b_c\\%": random_features(20, 2)}
    evaluate_features(None, features, scores="norm").save(tmp_path / "odd.tex")
    with pytest.raises(EvaluationError, match=r"there is no OoD set; name the results \.json"):
        evaluate_features(None, {"id": random_features(20, 1)}, scores="norm").save(tmp_path / "none.tex")
    assert r"{}score & a\&b\_c\textbackslash{}\% \\" in (tmp_path / "odd.tex").read_text()


@pytest.mark.parametrize("name", ["results", "results.xlsx"])
def test_another_suffix_names_those_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(EvaluationError, match=r"\.json, \.csv, \.md or \.tex"):
        evaluation().save(tmp_path / name)


def test_mean_min_and_max_over_seeds(tmp_path: Path) -> None:
    runs = [evaluation(seed) for seed in (1, 2, 3)]
    summary = over_seeds(runs)
    values = [run.metrics["knn"]["odd"].auroc for run in runs]
    spread = summary.metrics["knn"]["odd"]["auroc"]
    assert (spread.min, spread.max) == (min(values), max(values))
    assert spread.mean == pytest.approx(np.mean(values))
    means = [run.means["knn"]["far"].fpr_at_id_tpr95 for run in runs]
    assert summary.means["knn"]["far"]["fpr_at_id_tpr95"].max == max(means)
    assert summary.aurc_wrong["norm"].min == min(run.aurc_wrong["norm"] for run in runs)
    assert summary.accuracy is not None
    assert summary.accuracy.mean == pytest.approx(np.mean([run.accuracy for run in runs]))
    assert summary.gate_score == "energy"
    assert "auroc_low" not in summary.metrics["knn"]["odd"]
    for suffix in (".json", ".csv", ".md"):
        summary.save(tmp_path / f"s{suffix}")
    read = json.loads((tmp_path / "s.json").read_text())
    assert read["metrics"]["knn"]["odd"]["auroc"]["min"] == spread.min
    assert len(read["evaluations"]) == 3
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = {(r["score"], r["kind"], r["set"], r["metric"]): r for r in csv.DictReader(file)}
    assert float(rows["knn", "set", "odd", "auroc"]["max"]) == spread.max
    assert spread.std == pytest.approx(np.std(values, ddof=1))
    assert float(rows["knn", "set", "odd", "auroc"]["std"]) == spread.std
    assert float(rows["norm", "set", "id", "aurc_wrong"]["min"]) == summary.aurc_wrong["norm"].min
    assert repr(summary) == "<SeedSummary: 3 scores of 3 evaluations>"
    assert over_seeds(runs[:1]).metrics["knn"]["odd"]["auroc"].std is None
    cell = f"{100 * spread.mean:.1f} ({100 * spread.min:.1f}–{100 * spread.max:.1f})"
    assert cell in summary.table()
    assert cell in (tmp_path / "s.md").read_text()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_the_scores_of_each_image_as_a_table(tmp_path: Path, suffix: str) -> None:
    found = evaluation()
    found.save_images(tmp_path / f"images{suffix}")
    read = pq.read_table if suffix == ".parquet" else arrow_csv.read_csv
    table = read(tmp_path / f"images{suffix}").to_pydict()
    assert list(table) == ["set", "id", "wrong", *found.values]
    assert table["id"] == [str(name) for names in found.ids.values() for name in names]
    assert table["set"] == [name for name, ids in found.ids.items() for _ in ids]
    assert found.wrong is not None
    assert table["wrong"] == [*found.wrong.tolist(), *[None] * (len(table["id"]) - len(found.wrong))]
    for score, by_set in found.values.items():
        np.testing.assert_allclose(table[score], np.concatenate([by_set[name] for name in found.ids]), rtol=1e-12)
    with pytest.raises(OutputError, match="exists"):
        found.save_images(tmp_path / f"images{suffix}")
    with pytest.raises(EvaluationError, match=r"\.parquet or \.csv"):
        found.save_images(tmp_path / "images.xlsx")


def test_means_over_gates_that_differ_by_more_than_their_seed_are_pointed_out() -> None:
    def of(seed: int, epochs: int = 3, size: int = 8) -> Evaluation:
        run = {"recipe": {"epochs": epochs}, "backbone": {"name": "resnet18"}, "seed": seed, "weights": None}
        run["preprocessing"] = {"size": [size, size], "mean": [seed / 10] * 3}  # the mean is of the images drawn
        score = {"name": f"the one that probes chose for seed {seed}", "settings": {}}
        return dataclasses.replace(evaluation(seed), gate={"version": "1", "score": score, "run": run})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        over_seeds([of(1), of(2)])
        over_seeds([evaluation(1), evaluation(2)])
    with pytest.warns(NormgateWarning, match=r"more than their seed \(recipe\)"):
        over_seeds([of(1), of(2, epochs=4)])
    with pytest.warns(NormgateWarning, match=r"more than their seed \(size\)"):
        over_seeds([of(1), of(2, size=9)])
    with pytest.warns(NormgateWarning, match="not all of different seeds"):
        over_seeds([of(1), of(1)])


def test_seeds_without_labels_or_of_other_sets() -> None:
    mixed = over_seeds([evaluation(1), evaluation(2, labelled=False)])
    assert mixed.accuracy is None
    assert mixed.aurc_wrong == {}
    assert "aurc_both" not in mixed.metrics["norm"]["odd"]
    features = {"id": random_features(20, 1), "flat": random_features(20, 2)}
    with pytest.raises(EvaluationError, match="same sets and groups"):
        over_seeds([evaluation(1), evaluate_features(None, features, scores="norm")])
    with pytest.raises(EvaluationError, match="at least one"):
        over_seeds([])


def test_seeds_of_other_images() -> None:
    def of(known: Features, odd: Features) -> Evaluation:
        return evaluate_features(None, {"id": known, "odd": odd}, scores="norm")

    known, odd = random_features(20, 1), random_features(10, 2)
    over_seeds([of(known, odd), of(random_features(20, 3), odd)])
    with pytest.raises(EvaluationError, match="20 images of id in one evaluation and 7 in another"):
        over_seeds([of(known, odd), of(known.select(range(7)), odd)])
    with pytest.raises(EvaluationError, match="10 images of odd in one evaluation and 10 in another are not the same"):
        over_seeds([of(known, odd), of(known, random_features(20, 2).select(range(10, 20)))])


def test_seeds_of_other_images_in_memory_which_have_numbers_for_names() -> None:
    def of(digest: bytes) -> Evaluation:
        known = dataclasses.replace(random_features(2, 1), digests=(b"a", digest))
        return evaluate_features(None, {"id": known, "odd": random_features(10, 2)}, scores="norm")

    assert of(b"b").contents == of(b"b").contents != of(b"c").contents
    assert of(b"b").contents.keys() == {"id"}
    over_seeds([of(b"b"), of(b"b")])
    with pytest.raises(EvaluationError, match="not the same images"):
        over_seeds([of(b"b"), of(b"c")])


def test_seeds_of_other_scores(tmp_path: Path) -> None:
    def of(*scores: str) -> Evaluation:
        return evaluate_features(None, {"id": random_features(20, 1), "odd": random_features(10, 2)}, scores=scores)

    summary = over_seeds([of("norm", "energy"), of("msp", "norm")])
    assert summary.left_out == ("energy", "msp")
    summary.save(tmp_path / "s.md")
    assert "left out, since not every evaluation has them: energy, msp" in (tmp_path / "s.md").read_text()
    with pytest.raises(EvaluationError, match="no score that every evaluation has"):
        over_seeds([of("energy"), of("msp")])


def of_seed(seed: int, gain: float = 0.0) -> Evaluation:
    """Of a gate that was trained with this seed; images and scores are those of `evaluation`."""
    found = evaluation(seed)
    for score in found.metrics:
        for parts in (found.metrics[score], found.means[score]):
            for name, part in parts.items():
                parts[name] = dataclasses.replace(part, auroc=part.auroc - gain)  # type: ignore[type-var]
    run = {"recipe": {}, "backbone": {}, "seed": seed, "weights": None, "preprocessing": {"size": [8, 8]}}
    return dataclasses.replace(found, gate={"version": "1", "run": run})


def test_scores_are_compared_seed_by_seed(tmp_path: Path) -> None:
    runs = [of_seed(seed) for seed in (1, 2, 3)]
    summary = over_seeds(runs)
    found = summary.compare("knn", "norm")
    a, b = ([run.metrics[score]["odd"].auroc for run in runs] for score in ("knn", "norm"))
    assert found.sets["odd"] == metrics.paired_difference_over_seeds(a, b)
    a, b = ([run.means[score]["far"].auroc for run in runs] for score in ("knn", "norm"))
    assert found.means["far"] == metrics.paired_difference_over_seeds(a, b)
    assert found.means.keys() == GROUPS.keys()
    assert summary.differences.keys() == {"norm", "knn"}
    assert summary.differences["knn"] == summary.compare("knn", "energy")
    summary.save(tmp_path / "s.json")
    read = json.loads((tmp_path / "s.json").read_text())["differences"]["knn"]
    assert (read["a"], read["b"]) == ("knn", "energy")
    assert read["means"]["near"]["p_value"] == summary.differences["knn"].means["near"].p_value
    with pytest.raises(EvaluationError, match="dice is not of every evaluation; choose from: norm, energy, knn"):
        summary.compare("norm", "dice")
    mixed = dataclasses.replace(summary, gate_score=None)
    assert mixed.differences == {}


def with_digests(seed: int, rows: dict[str, list[int]]) -> Evaluation:
    """Of images in memory, whose names are their numbers; the network is another for another seed."""
    sets = {"id": random_features(60, seed), "odd": random_features(30, seed + 100)}
    sets["odd"].z.mul_(0.5)
    given = {}
    for name, part in sets.items():
        told = dataclasses.replace(part, digests=tuple(f"{name}{row}".encode() for row in range(len(part))))
        given[name] = dataclasses.replace(told.select(rows[name]), ids=tuple(map(str, range(len(rows[name])))))
    return evaluate_features(None, given, scores=["norm", "energy"])


def test_gates_are_compared_image_by_image_whatever_the_order() -> None:
    order = {"id": list(range(60)), "odd": list(range(30))}
    rng = np.random.default_rng(0)
    shuffled = {name: rng.permutation(rows).tolist() for name, rows in order.items()}
    one, other, turned = with_digests(1, order), with_digests(2, order), with_digests(2, shuffled)
    a, b = one.values["norm"], other.values["energy"]
    expected = metrics.paired_auroc_difference(a["id"], a["odd"], b["id"], b["odd"])
    assert one.compare("norm", "energy", other).sets["odd"] == expected
    assert one.compare("norm", "energy", turned).sets["odd"] == pytest.approx(expected, rel=1e-12)
    assert turned.values["energy"]["id"].tolist() != b["id"].tolist()
    assert one.compare("norm", "energy", one) == one.compare("norm", "energy")
    assert turned.compare("norm", "norm", other).sets["odd"] == pytest.approx((0, 0, 0, 1))
    fewer = with_digests(2, {**order, "odd": [0, *range(29)]})
    with pytest.raises(EvaluationError, match="30 images of odd in one evaluation and 30 in another are not the same"):
        one.compare("norm", "norm", fewer)
    with pytest.raises(EvaluationError, match="energy_raw was not computed; choose from: norm, energy"):
        one.compare("norm", "energy_raw", other)
    with pytest.raises(EvaluationError, match=r"as this is one, and not SeedSummary; .* over_seeds\(\[…\]\).compare"):
        one.compare("norm", "norm", over_seeds([other]))  # type: ignore[arg-type]


def test_what_gates_have_over_others() -> None:
    one, other = evaluation(1), dataclasses.replace(evaluation(1), gate_score="norm")
    del other.metrics["knn"]
    found = against(one, other)
    ranked = [score for score in one.ranking if score != "knn"]
    assert [(part.a, part.b) for part in found] == [("energy", "norm"), *zip(ranked, ranked, strict=True)]
    assert found[0] == one.compare("energy", "norm", other)
    assert len(against(one, dataclasses.replace(other, gate_score="energy"))) == 2  # the gates' own is among them
    assert len(against(one, dataclasses.replace(other, gate_score=None))) == 2
    seeds = [over_seeds([of_seed(seed, gain) for seed in (1, 2, 3)]) for gain in (0, 0.125)]
    better = against(*seeds)
    assert (better[0].a, better[0].b) == ("energy", "energy")
    assert [part.sets["odd"].difference for part in better] == pytest.approx([0.125] * 3)
    for left, right in ((one, seeds[0]), (seeds[0], one), (one, None)):
        with pytest.raises(EvaluationError, match=r"one evaluation is compared with one, and over_seeds"):
            against(left, right)  # type: ignore[arg-type]
    lone = dataclasses.replace(other, gate_score=None, metrics={})
    with pytest.raises(EvaluationError, match="no score that both sides have"):
        against(one, lone)
    set_otherwise = dataclasses.replace(one, settings={**one.settings, "knn": {"k": 1}})
    with pytest.warns(NormgateWarning, match="^knn of these gates differ in their settings"):
        against(one, set_otherwise)


def test_recipes_are_compared_seed_by_seed_whatever_the_order() -> None:
    better = over_seeds([of_seed(seed) for seed in (1, 2, 3)])
    worse = over_seeds([of_seed(seed, gain) for seed, gain in ((3, 0.25), (1, 0.125), (2, 0.1875))])
    found = better.compare("norm", "norm", worse).sets["odd"]
    assert found == pytest.approx(metrics.paired_difference_over_seeds([0.125, 0.1875, 0.25], [0, 0, 0]))
    assert found.difference == pytest.approx(0.1875)
    turned = worse.compare("norm", "norm", better).sets["odd"]
    assert turned.difference == pytest.approx(-0.1875)
    other = over_seeds([of_seed(seed) for seed in (1, 2, 4)])
    with pytest.raises(EvaluationError, match="gates of the seeds 1, 2, 3 and of the seeds 1, 2, 4 make no pairs"):
        better.compare("norm", "norm", other)
    with pytest.raises(EvaluationError, match="the seeds 1, 2, 3 and of the seeds 1, 2 make no pairs"):
        better.compare("norm", "norm", over_seeds([of_seed(1), of_seed(2)]))
    with pytest.warns(NormgateWarning, match="not all of different seeds"):
        twice = over_seeds([of_seed(1), of_seed(1)])
    with pytest.raises(EvaluationError, match="each of which occurs once"):
        over_seeds([of_seed(1), of_seed(2)]).compare("norm", "norm", twice)
    assert twice.compare("norm", "norm").sets["odd"].difference == 0


def test_evaluations_of_unknown_seeds_are_paired_in_their_order() -> None:
    known, unknown = over_seeds([of_seed(1), of_seed(2)]), over_seeds([evaluation(2), evaluation(1)])
    assert known.compare("norm", "norm", unknown).sets["odd"].p_value == pytest.approx(1)
    with pytest.raises(EvaluationError, match=r"other= is what over_seeds\(\[…\]\) gives, and not Evaluation"):
        known.compare("norm", "norm", of_seed(1))  # type: ignore[arg-type]
    with pytest.raises(EvaluationError, match="gates of the seeds 1, 2 and of the seeds 2, None make no pairs"):
        known.compare("norm", "norm", over_seeds([of_seed(2), evaluation(1)]))
    with pytest.raises(EvaluationError, match="2 evaluations and 1 make no pairs"):
        known.compare("norm", "norm", over_seeds([evaluation(1)]))
    features = {"id": random_features(20, 1), "flat": random_features(20, 2)}
    with pytest.raises(EvaluationError, match="do not go together; evaluate every gate on the same sets"):
        known.compare("norm", "norm", over_seeds([evaluate_features(None, features, scores="norm")] * 2))


def test_how_the_scores_were_made_is_said() -> None:
    found = evaluate_features(
        None, {"id": random_features(20, 1)}, scores=["norm", "knn"], train=random_features(30, 7)
    )
    assert found.fitted == {"train": 30}
    assert found.settings["knn"] == scores.create("knn").settings
    assert found.to_dict()["version"] == normgate.__version__


def test_features_of_another_network_are_refused() -> None:
    known, odd = random_features(20, 1), random_features(20, 2)
    others = (
        dataclasses.replace(odd, weight=odd.weight + 1),
        dataclasses.replace(odd, temperature=odd.temperature / 2),
        dataclasses.replace(odd, m=odd.z[:, :3]),
        dataclasses.replace(odd, bias=torch.ones(3) if odd.bias is None else None),
        dataclasses.replace(odd, z=odd.z[:, :3], weight=odd.weight[:, :3]),
    )
    for other in others:
        with pytest.raises(EvaluationError, match="the features of odd are another network's than those of id"):
            evaluate_features(None, {"id": known, "odd": other}, scores="norm")
    with pytest.raises(EvaluationError, match="the features of train are another network's"):
        evaluate_features(None, {"id": known, "odd": odd}, scores="knn", train=others[0])
    rounded = dataclasses.replace(odd, weight=odd.weight.bfloat16())
    evaluate_features(None, {"id": known, "odd": rounded}, scores="norm")
    broken = [dataclasses.replace(part, weight=part.weight * torch.nan) for part in (known, odd)]
    evaluate_features(None, dict(zip(("id", "odd"), broken, strict=True)), scores="norm")
    with pytest.raises(EvaluationError, match="the features of train are another network's"):
        evaluate_features(None, {"id": known, "train": others[0]}, scores="knn", train=odd)
    with pytest.raises(EvaluationError, match="1 is no name of a set"):
        evaluate_features(None, {"id": known, 1: odd}, scores="norm")
    with pytest.raises(EvaluationError, match="gate= is a gate or None, and not str"):
        evaluate_features("gates/x", {"id": known}, scores="norm")
    with pytest.raises(EvaluationError, match="odd has no images"):
        evaluate_features(None, {"id": known, "odd": odd.select([])}, scores="norm")


def test_names_do_not_break_tables() -> None:
    features = {"id": random_features(20, 1), "a|b\\": random_features(20, 2), "c\nd": random_features(20, 3)}
    lines = evaluate_features(None, features, scores=["norm", "energy"]).table().splitlines()
    assert lines[0] == "| score | a\\|b\\\\ | c d | mean |"
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}


def test_no_unknown_images_leave_accuracy_and_wrong_predictions(tmp_path: Path) -> None:
    found = evaluate_features(None, {"id": random_features(20, 1)}, scores=["norm", "energy"])
    assert found.groups == {}
    assert set(found.aurc_wrong) == {"norm", "energy"}
    found.save(tmp_path / "r.md")
    found.save(tmp_path / "r.json")
    with pytest.raises(EvaluationError, match=r"name the results \.json"):
        found.save(tmp_path / "r.csv")


def test_the_known_images_are_the_set_id() -> None:
    made = Features(torch.zeros(2, 2), torch.zeros(2, 3), torch.zeros(3, 2), None, 1.0, ("a", "b"))
    with pytest.raises(EvaluationError, match="under 'id'; there are only: a"):
        evaluate_features(None, {"a": made})


def test_scores_of_one_name_and_other_settings_are_pointed_out() -> None:
    features = {"id": random_features(20, 1), "odd": random_features(10, 2)}
    one, other = (
        evaluate_features(None, features, scores=["norm", scores.create("knn", k=k)], train=random_features(30, 3))
        for k in (1, 5)
    )
    with pytest.warns(NormgateWarning, match="knn of these gates differ in their settings"):
        over_seeds([one, other])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert over_seeds(iter([one, one])).metrics.keys() == {"norm", "knn"}


def test_the_same_images_may_have_other_names() -> None:
    known = dataclasses.replace(random_features(20, 1), digests=tuple(bytes([i]) for i in range(20)))
    renamed = dataclasses.replace(known, ids=tuple(f"other{i}" for i in range(20)))
    of = [
        evaluate_features(None, {"id": part, "odd": random_features(10, 2)}, scores="norm") for part in (known, renamed)
    ]
    assert over_seeds(of).metrics["norm"]["odd"]["auroc"].std == 0
