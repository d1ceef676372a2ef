from __future__ import annotations

import numpy as np
import pytest
import torch

from collapse_oracles import collapsed, features_of, random_classes
from normgate.collapse import CollapseError, explain, geometry


def said(features, classes=None, **more) -> str:
    return "\n".join(explain(geometry(features, **more), classes))


def rescaled(features, lengths):
    """The same directions with other norms."""
    return features_of(
        features.u * torch.as_tensor(np.asarray(lengths), dtype=torch.float32)[:, None],
        features.labels,
        features.weight,
        features.bias,
        features.temperature,
    )


def lengths(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 3, count)


def test_norms_that_hardly_vary_do_not_work():
    assert said(collapsed()).startswith("The norm will not work for this model: norms hardly vary")
    assert said(features_of(np.zeros((4, 2)), [0, 1] * 2, np.eye(2))).startswith(
        "The norm will not work for this model: all norms are zero."
    )


def test_nothing_is_claimed_that_was_not_measured():
    first = explain(geometry(random_classes()))[0]
    assert first.startswith("Nothing measured here speaks against the norm")
    assert first.endswith("Whether norms follow contrast or texture was not measured.")
    text = said(random_classes())
    assert "AUROC" not in text
    assert "Spearman" not in text


@pytest.mark.parametrize(("sign", "word"), [(1, "rise"), (-1, "fall")])
def test_norms_that_follow_texture_mislead(sign, word):
    features = random_classes()
    norms = features.z.double().norm(dim=1).numpy()
    statistics = {"high_frequency": np.exp(sign * norms), "contrast": np.random.default_rng(0).normal(size=len(norms))}
    text = said(features, statistics=statistics)
    assert text.startswith("The norm can mislead for this model: it goes with fine texture, ")
    assert f"Norms {word} with fine texture, strongly (Spearman {sign:+.2f})." in text
    assert "with contrast, not strongly" in text


def test_networks_that_have_learned_nothing_are_not_judged():
    features = random_classes(weight_scale=0.0)
    assert said(features).startswith("This network has hardly learned its classes")
    # At its floor a network has learned all that it can, even where that is near chance.
    at_floor = collapsed(100, temperature=1.0, head_norm=0.1)
    assert "hardly learned" not in said(rescaled(at_floor, lengths(len(at_floor))))


def test_sets_are_judged_one_by_one():
    train, known = random_classes(200), random_classes(200, seed=0)
    train, known = rescaled(train, lengths(200)), rescaled(known, lengths(200, 1))
    same = rescaled(known, lengths(200, 2))
    sets = {"small": rescaled(same, lengths(200, 2) - 0.9), "large": rescaled(same, lengths(200, 2) + 2), "same": same}
    text = said(train, id=known, ood=sets)
    assert text.startswith("The norm alone does not work for this model: it fails on large and same.")
    assert "large: magnitude carries" in text
    assert "the norm is inverted: these images have larger norms" in text
    assert "same: neither norms nor directions tell these images from ID images" in text
    works = said(train, id=known, ood={"small": sets["small"]})
    assert works.startswith("The norm works for this model on the sets measured here (AUROC 0.")


def test_classes_with_small_norms_are_named():
    features = random_classes(200)
    factors = np.where(features.labels.numpy() == 2, 0.5, 1.0)
    text = said(rescaled(features, factors * lengths(200)), ["ant", "bee", "cat", "dog"])
    assert "Classes with small norms: cat. " in text
    assert "small norms: 2. " in said(rescaled(features, factors * lengths(200)))
    assert "small norms" not in said(rescaled(features, lengths(200)))


def test_many_names_are_cut_short():
    features = random_classes(600, dimensions=20, classes=30)
    factors = np.where(features.labels.numpy() < 7, 0.1, 1.0)
    assert ", 3 and 2 more." not in said(features)
    assert " and 2 more. " in said(rescaled(features, factors * lengths(600)))


def test_the_floor_is_read_with_the_loss():
    near = said(collapsed(10, temperature=1.0, head_norm=1.0))
    assert "The cross-entropy floor is high" in near
    assert "training has come close to that. Lower τ" in near
    rows = collapsed(10, temperature=1.0, head_norm=1.0)
    wrong = features_of(rows.z, (rows.labels + 1) % 10, rows.weight)
    assert "though training is not there yet." in said(wrong)
    assert "floor does not hold this model back" in said(collapsed(10, temperature=0.1, head_norm=3.0))


def test_the_push_is_described_as_trained():
    assert "pushes features sideways and never outward" in said(random_classes())
    text = said(random_classes(normalized=False))
    assert "The head was trained on raw features: the loss also sets their lengths" in text
    assert "floor" not in text


def test_collapse_is_told_by_degrees():
    features = collapsed()
    long = rescaled(features, 2.0 ** np.random.default_rng(0).uniform(-3, 3, len(features)))
    text = said(long)
    assert "Directions have collapsed to their class means" in text
    assert "Raw features have partly collapsed" in text or "Raw features have not collapsed" in text
    assert "Directions have not collapsed" in said(random_classes(spread=20))
    assert "the prediction is not the class with the nearest mean direction" in said(random_classes(spread=20))
    assert "simplex is out of reach" in said(random_classes(dimensions=2))
    assert "out of reach" not in said(random_classes())
    assert "NC1" not in said(random_classes(4))  # one image a class


@pytest.mark.parametrize("normalized", [True, False])
def test_every_line_is_a_sentence(normalized):
    sentences = explain(geometry(random_classes(normalized=normalized)))
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in sentences)


@pytest.mark.parametrize("classes", [[], ["cat"], ["a", "b", "c", "d", "e"]])
def test_every_class_has_a_name(classes):
    with pytest.raises(CollapseError, match=f"one name for each of the 4 classes, in order, not {len(classes)}"):
        said(random_classes(), classes)
