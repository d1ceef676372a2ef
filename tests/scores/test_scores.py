"""What holds of every score: its formula, and what it does with rows, fits, settings and bad input."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp, rel_entr, softmax
from scipy.stats import entropy, multivariate_normal

from normgate import scores
from normgate.features import Features
from normgate.scores import Score, ScoreError
from samples import random_features

if TYPE_CHECKING:
    from collections.abc import Callable

TRAIN, QUERY, TUNING = random_features(90, 0), random_features(40, 2), random_features(60, 7)
FITTED = tuple(name for name in scores.names() if scores.create(name).needs_fit)
# Fitted class by class, without the head.
BY_CLASS = (
    "knn", "knn_raw", "mahalanobis", "mahalanobis_raw", "relative_mahalanobis", "relative_mahalanobis_raw", "gmm",
    "cosine",
)  # fmt: skip
# Products in float32, within the promised 1e-5 · max(|s|, spread).
SINGLE = ("vim", "residual", "nnguide", "react", "ash", "scale", "dice")


def fitted(name: str, train: Features = TRAIN, tuning: Features = TUNING) -> Score:
    return scores.create(name).fit(train, tuning)


def mahalanobis(x: np.ndarray, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """From the explicit inverse, image by image and class by class."""
    present = np.unique(labels)
    means = {c: train[labels == c].mean(axis=0) for c in present}
    centred = np.stack([row - means[c] for row, c in zip(train, labels, strict=True)])
    covariance = sum(np.outer(row, row) for row in centred) / len(centred)
    covariance += 1e-6 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    inverse = np.linalg.inv(covariance)
    return np.array([-min((row - m) @ inverse @ (row - m) for m in means.values()) for row in x])


def gmm(x: np.ndarray, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """SciPy's densities, class by class; a class of one image takes the covariance within all."""
    dimensions, densities = train.shape[1], []
    means = {c: train[labels == c].mean(axis=0) for c in np.unique(labels)}
    for c, mean in means.items():
        centred = train[labels == c] - mean
        if not centred.any():
            centred = train - np.stack([means[label] for label in labels])
        covariance = centred.T @ centred / len(centred)
        covariance += 1e-6 * np.trace(covariance) / dimensions * np.eye(dimensions)
        density = multivariate_normal(mean, covariance, allow_singular=True).logpdf(x)
        densities.append(np.atleast_1d(density) + np.log(np.mean(labels == c)))
    return logsumexp(densities, axis=0)


def residual(train: Features, query: Features) -> np.ndarray:
    """Lengths outside the principal subspace, from the singular vectors of training features."""
    assert train.bias is not None
    z, weight = train.z.double().numpy(), train.weight.double().numpy()
    origin = -train.temperature * np.linalg.pinv(weight) @ train.bias.double().numpy()
    basis = np.linalg.svd(z - origin, full_matrices=True)[2]
    dims = min(z.shape[1] // 2, len(z) // 2)
    return np.linalg.norm((query.z.double().numpy() - origin) @ basis[dims:].T, axis=1)


def energy_of(z: np.ndarray, features: Features, mask: np.ndarray | float = 1.0) -> np.ndarray:
    """Energy of `head(z/τ)` in float64, some weights masked out."""
    assert features.bias is not None
    logits = z / features.temperature @ (features.weight.double().numpy() * mask).T + features.bias.double().numpy()
    return logsumexp(logits, axis=1)


def shaped(z: np.ndarray, keep_all: bool) -> np.ndarray:
    """ASH-S and SCALE at 65 %, image by image."""
    rows = []
    for row in z:
        kept = np.argsort(-np.abs(row))[: max(1, len(row) - round(0.65 * len(row)))]
        pruned = np.zeros_like(row)
        pruned[kept] = row[kept]
        rows.append((row if keep_all else pruned) * np.exp(np.abs(row).sum() / np.abs(pruned).sum()))
    return np.stack(rows)


def nnguide(train: Features, query: Features) -> np.ndarray:
    """From every pair of a query and a training image."""
    z, u = train.z.double().numpy(), train.u.double().numpy()
    similarities = query.u.double().numpy() @ (u * energy_of(z, train)[:, None]).T
    nearest = np.sort(similarities, axis=1)[:, -10:].mean(axis=1)
    return nearest * energy_of(query.z.double().numpy(), query)


def dice(train: Features, query: Features) -> np.ndarray:
    """With the weights kept whose contribution ranks among the highest tenth."""
    contributions = train.weight.double().numpy() * train.z.double().numpy().mean(axis=0)
    kept = contributions.size - int(0.9 * contributions.size)
    threshold = np.sort(contributions, axis=None)[-kept]
    return energy_of(query.z.double().numpy(), query, contributions >= threshold)


def gen(logits: np.ndarray) -> np.ndarray:
    """The complement of each probability as the sum of the others, which does not cancel."""
    p = softmax(logits, axis=1)
    complement = np.stack([np.delete(p, k, axis=1).sum(axis=1) for k in range(p.shape[1])], axis=1)
    return -((p * complement) ** 0.1).sum(axis=1)


def kl_matching(train: Features, query: Features) -> np.ndarray:
    """SciPy's relative entropy to the mean softmax of each predicted class."""
    p, q = (softmax(features.logits.double().numpy(), axis=1) for features in (query, train))
    typical = [q[q.argmax(axis=1) == k].mean(axis=0) for k in np.unique(q.argmax(axis=1))]
    return -np.min([rel_entr(p, d).sum(axis=1) for d in typical], axis=0)


def cosine(x: np.ndarray, train: np.ndarray, labels: np.ndarray) -> np.ndarray:
    means = np.stack([train[labels == c].mean(axis=0) for c in np.unique(labels)])
    lengths = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(means, axis=1)
    return (x @ means.T / np.where(lengths > 0, lengths, 1)).max(axis=1)  # means of +1 and −1 may be 0


def she(train: Features, query: Features) -> np.ndarray:
    """Image by image; only classes with a pattern can be predicted."""
    assert train.labels is not None
    correct = train.labels[train.raw_logits.argmax(dim=1) == train.labels].numpy()
    z = train.z.double().numpy()[(train.raw_logits.argmax(dim=1) == train.labels).numpy()]
    patterns = {c: z[correct == c].mean(axis=0) for c in np.unique(correct)}
    rows = zip(query.z.double().numpy(), query.raw_logits.tolist(), strict=True)
    return np.array([row @ patterns[max(patterns, key=lambda c: logits[c])] for row, logits in rows])


def nci(train: Features, query: Features) -> np.ndarray:
    z, mean = query.z.double().numpy(), train.z.double().numpy().mean(axis=0)
    rows = query.weight.double().numpy()[query.raw_logits.argmax(dim=1).numpy()]
    return ((z - mean) * rows).sum(axis=1) / np.linalg.norm(z - mean, axis=1) + 1e-4 * np.abs(z).sum(axis=1)


def fdbd(train: Features, query: Features) -> np.ndarray:
    """Image by image and boundary by boundary, from the point where the two logits meet."""
    mean, w = train.z.double().numpy().mean(axis=0), query.weight.double().numpy()
    values = []
    for z, logits in zip(query.z.double().numpy(), query.raw_logits.double().numpy(), strict=True):
        c = logits.argmax()
        distances = []
        for k in set(range(len(w))) - {c}:
            normal = (w[c] - w[k]) / query.temperature
            step = (logits[c] - logits[k]) / (normal @ normal) * normal  # z - step lies on the boundary
            distances.append(np.linalg.norm(step))
        values.append(np.mean(distances) / np.linalg.norm(z - mean))
    return np.array(values)


def norm_profile(query: np.ndarray, bank: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    means = np.stack([bank[labels == c].mean(axis=0) for c in range(3)])
    rest = bank - means[labels]
    sigma = rest.T @ rest / len(bank)
    precision = np.linalg.inv(sigma + 1e-6 * np.trace(sigma) / len(sigma) * np.eye(len(sigma)))
    return np.array([-(p - means[c]) @ precision @ (p - means[c]) for p, c in zip(query, predicted, strict=True)])


def expected(name: str, train: Features, query: Features) -> np.ndarray:
    return oracles(train, query)[name]()


def oracles(train: Features, query: Features) -> dict[str, Callable[[], np.ndarray]]:
    """Float64 NumPy from the same float32 features."""
    space = {key: getattr(query, key).double().numpy() for key in ("z", "u", "logits", "raw_logits")}
    bank = {key: getattr(train, key).double().numpy() for key in ("z", "u")}
    assert train.labels is not None
    labels = train.labels.numpy()
    small = np.quantile(np.unique(labels, return_counts=True)[1], 0.1, method="higher")
    k = max(1, min(50, int(small) // 2))
    assert query.stage_norms is not None
    early = query.stage_norms[:, 0].double().numpy()
    profiles = [
        np.log(np.column_stack([f.stage_norms.double().numpy(), np.linalg.norm(f.z.double().numpy(), axis=1)]))
        for f in (query, train)
    ]
    return {
        "norm": lambda: np.linalg.norm(space["z"], axis=1),
        "norm_gain": lambda: np.log(np.linalg.norm(space["z"], axis=1) / early),
        "norm_profile": lambda: norm_profile(*profiles, labels, space["logits"].argmax(axis=1)),
        "msp": lambda: log_softmax(space["logits"], axis=1).max(axis=1),
        "msp_raw": lambda: log_softmax(space["raw_logits"], axis=1).max(axis=1),
        "max_logit": lambda: space["logits"].max(axis=1),
        "max_logit_raw": lambda: space["raw_logits"].max(axis=1),
        "energy": lambda: logsumexp(space["logits"], axis=1),
        "energy_raw": lambda: logsumexp(space["raw_logits"], axis=1),
        "entropy": lambda: -entropy(softmax(space["logits"], axis=1), axis=1),
        "entropy_raw": lambda: -entropy(softmax(space["raw_logits"], axis=1), axis=1),
        "gen": lambda: gen(space["logits"]),
        "gen_raw": lambda: gen(space["raw_logits"]),
        "kl_matching": lambda: kl_matching(train, query),
        "cosine": lambda: cosine(space["u"], bank["u"], labels),
        "she": lambda: she(train, query),
        "nci": lambda: nci(train, query),
        "fdbd": lambda: fdbd(train, query),
        "knn": lambda: -np.sort(np.linalg.norm(space["u"][:, None] - bank["u"], axis=2), axis=1)[:, k - 1],
        "mahalanobis": lambda: mahalanobis(space["u"], bank["u"], labels),
        "mahalanobis_raw": lambda: mahalanobis(space["z"], bank["z"], labels),
        "knn_raw": lambda: -np.sort(np.linalg.norm(space["z"][:, None] - bank["z"], axis=2), axis=1)[:, k - 1],
        "relative_mahalanobis": lambda: (
            mahalanobis(space["u"], bank["u"], labels) - mahalanobis(space["u"], bank["u"], 0 * labels)
        ),
        "relative_mahalanobis_raw": lambda: (
            mahalanobis(space["z"], bank["z"], labels) - mahalanobis(space["z"], bank["z"], 0 * labels)
        ),
        "gmm": lambda: gmm(space["u"], bank["u"], labels),
        "residual": lambda: -residual(train, query),
        "vim": lambda: (
            logsumexp(space["raw_logits"], axis=1)
            - abs(train.raw_logits.double().numpy().max(axis=1).mean())
            * residual(train, query)
            / residual(train, train).mean()
        ),
        "nnguide": lambda: nnguide(train, query),
        "react": lambda: energy_of(np.minimum(space["z"], np.quantile(bank["z"], 0.9)), query),
        "ash": lambda: energy_of(shaped(space["z"], keep_all=False), query),
        "scale": lambda: energy_of(shaped(space["z"], keep_all=True), query),
        "dice": lambda: dice(train, query),
    }


def test_every_score_has_an_oracle() -> None:
    assert set(scores.names()) - {"polar"} == set(oracles(TRAIN, QUERY))  # polar has a file of its own


@pytest.mark.parametrize("name", sorted(set(scores.names()) - {"polar"}))
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000), rows=st.integers(3, 80), dimensions=st.integers(1, 20), tau=st.sampled_from([0.1, 1.0])
)
def test_formula(name: str, seed: int, rows: int, dimensions: int, tau: float) -> None:
    train, query = (random_features(n, seed + i, dimensions, tau) for i, n in enumerate((rows, 20)))
    try:
        score = fitted(name, train)
    except ScoreError:
        assert "mahalanobis" in name or name in ("gmm", "she", "norm_profile")
        # One image a class, or directions that are only +1 and -1; none of which need be classified correctly.
        assert rows == 3 or dimensions == 1
        return
    exact = expected(name, train, query)
    # Of single precision 1e-6 is lost where energies of order 1 cancel.
    single = {"rtol": 1e-5, "atol": 1e-6 + 1e-5 * np.abs(exact).max()}
    close = single if name in SINGLE else {"rtol": 1e-7, "atol": 1e-9}
    np.testing.assert_allclose(score(query).numpy(), exact, **close)


@pytest.mark.parametrize("name", scores.names())
def test_larger_is_more_familiar(name: str) -> None:
    """Around the class centres, with the head's rows pointing there, against noise of half the length.

    (Of twice the length for residuals, which grow with it.)
    """
    z = (2.0 if name in ("vim", "residual") else 0.5) * torch.randn(200, 12, generator=torch.Generator().manual_seed(3))
    logits = torch.nn.functional.linear(torch.nn.functional.normalize(z, dim=1) / 0.5, TRAIN.weight, TRAIN.bias)
    noise = dataclasses.replace(random_features(200, 3), z=z, logits=logits)
    score = fitted(name)
    known, unknown = score(random_features(200, 4)), score(noise)
    assert (known[:, None] > unknown).double().mean() > 0.8


@pytest.mark.parametrize("name", scores.names())
def test_rows_are_scored_one_by_one(name: str) -> None:
    score = fitted(name)
    whole = score(QUERY)
    spread = float(whole.quantile(0.75) - whole.quantile(0.25))
    tolerance = 1e-5 * torch.maximum(whole.abs(), torch.tensor(spread, dtype=torch.float64))
    order = torch.randperm(len(QUERY), generator=torch.Generator().manual_seed(0))
    assert ((score(QUERY.select(order)) - whole[order]).abs() <= tolerance[order]).all()
    alone = torch.cat([score(QUERY.select([row])) for row in range(len(QUERY))])
    assert ((alone - whole).abs() <= tolerance).all()


@pytest.mark.parametrize("name", scores.names())
def test_scores_are_float64_and_no_rows_have_no_scores(name: str) -> None:
    score = fitted(name)
    assert score(QUERY).dtype == torch.float64
    assert score(QUERY.select([])).shape == (0,)


@pytest.mark.parametrize("name", scores.names())
def test_a_second_fit_forgets_the_first(name: str) -> None:
    other = scores.create(name).fit(random_features(60, 5), random_features(40, 6))
    assert torch.equal(other.fit(TRAIN, TUNING)(QUERY), fitted(name)(QUERY))


@pytest.mark.parametrize("name", FITTED)
def test_the_order_of_training_images_does_not_matter(name: str) -> None:
    order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(0))
    close = {"rtol": 1e-5, "atol": 1e-4} if name in SINGLE else {"rtol": 1e-9, "atol": 1e-12}
    assert torch.allclose(fitted(name, TRAIN.select(order))(QUERY), fitted(name)(QUERY), **close)


@pytest.mark.parametrize("name", BY_CLASS)
def test_classes_without_training_images_are_no_classes(name: str) -> None:
    """Class numbers with gaps are as good as without."""
    assert TRAIN.labels is not None
    weight = torch.nn.functional.pad(TRAIN.weight, (0, 0, 2, 2))
    gaps = dataclasses.replace(
        TRAIN, labels=2 + TRAIN.labels, weight=weight, bias=None, logits=torch.zeros(len(TRAIN), 7)
    )
    assert torch.equal(fitted(name, gaps)(QUERY), fitted(name)(QUERY))


@pytest.mark.parametrize("name", scores.names())
def test_fitting_leaves_the_features_alone(name: str) -> None:
    z, logits = TRAIN.z.clone(), QUERY.logits.clone()
    score = fitted(name)
    score(QUERY)
    assert torch.equal(TRAIN.z, z)
    assert torch.equal(QUERY.logits, logits)
    assert not any(value.data_ptr() == TRAIN.z.data_ptr() for value in score.state.values())


@pytest.mark.parametrize("name", scores.names())
def test_autocast_around_changes_nothing(name: str) -> None:
    plain = fitted(name)(QUERY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fitted(name)(QUERY), plain)


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this switch came with PyTorch 2.9")
def test_products_are_taken_in_float32_whatever_the_process_allows() -> None:
    switch, seen = torch.backends.mkldnn.matmul, []

    @dataclasses.dataclass
    class Watching(Score):
        needs_fit: ClassVar[bool] = True

        def _fit(self, features: Features) -> dict[str, torch.Tensor]:
            seen.append(switch.fp32_precision)
            return {"z": features.z.clone()}

        def _score(self, features: Features) -> torch.Tensor:
            seen.append(switch.fp32_precision)
            return features.z[:, 0]

    before = switch.fp32_precision
    try:
        switch.fp32_precision = "bf16"
        Watching("watching").fit(TRAIN)(QUERY)
        assert seen == ["ieee", "ieee"]
        assert switch.fp32_precision == "bf16"
    finally:
        switch.fp32_precision = before


@pytest.mark.parametrize("name", scores.names())
def test_state_and_settings_make_the_same_score(name: str) -> None:
    score = fitted(name)
    stored = json.loads(json.dumps(score.settings))
    again = scores.create(name, **stored).load_state(score.state)
    assert again == score if not score.state else again.settings == score.settings
    assert torch.equal(again(QUERY), score(QUERY))


@pytest.mark.parametrize(
    ("name", "bad"),
    [(name, bad) for name in scores.names() for bad in (np.nan, np.inf) if (name, bad) != ("react", np.inf)],
)
def test_nan_is_an_error(name: str, bad: float) -> None:
    z, logits = QUERY.z.clone(), QUERY.logits.clone()
    z[3, 0] = logits[3, 0] = bad
    culprit = "energy_raw" if name == "polar" else name  # the first of its parts says so
    with pytest.raises(ScoreError, match=rf"{culprit} scores of 1 of 40 images are NaN or infinite; check"):
        fitted(name)(dataclasses.replace(QUERY, z=z, logits=logits))


@pytest.mark.parametrize("name", FITTED)
def test_fitting_needs_finite_labelled_rows(name: str) -> None:
    z = TRAIN.z.clone()
    z[3, 0] = float("nan")
    with pytest.raises(ScoreError, match="features of 1 of 90 images"):
        fitted(name, dataclasses.replace(TRAIN, z=z))
    with pytest.raises(ScoreError, match=f"{name} has not been fitted"):
        scores.create(name)(QUERY)
    with pytest.raises(ScoreError, match="labels"):
        fitted(name, dataclasses.replace(TRAIN, labels=None))
    with pytest.raises(ScoreError, match="fitted to training images, and there are none"):
        fitted(name, TRAIN.select([]))
    with pytest.raises(ScoreError, match="nothing is stored"):
        scores.create(name).load_state({})


@pytest.mark.parametrize("name", FITTED)
@pytest.mark.parametrize("case", ["one image", "one of a class", "constant", "zero", "more dimensions than images"])
def test_hard_training_sets_give_numbers_or_an_error_of_the_fit(name: str, case: str) -> None:
    assert TRAIN.labels is not None
    query, train = QUERY, TRAIN
    if case == "one image":
        train = TRAIN.select([0])
    elif case == "one of a class":
        train = TRAIN.select([*range(0, 90, 3), *range(1, 90, 3), 2])
    elif case in ("constant", "zero"):
        train = dataclasses.replace(TRAIN, z=(0 if case == "zero" else 1) * TRAIN.z[:1].expand(90, -1).contiguous())
    else:
        train, query = random_features(10, 0, 40), random_features(40, 2, 40)
    score, message = scores.create(name), ""
    try:
        score.fit(train, random_features(60, 7, train.z.shape[1]))
    except ScoreError as error:
        message = str(error)
    if message:
        assert case in ("one image", "constant", "zero")
        assert "NaN" not in message
    else:
        assert torch.isfinite(score(query)).all()


def test_unknown_names_are_errors_that_name_the_nearest() -> None:
    with pytest.raises(ScoreError, match=r"no score 'enrgy'; did you mean 'energy'\? choose from: norm, norm_gain"):
        scores.create("enrgy")
    with pytest.raises(ScoreError, match="no score 'xyz'; choose from"):
        scores.create("xyz")


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("norm", {"k": 3}),
        ("knn", {"k": 0}),
        ("knn", {"k": 2.5}),
        ("knn", {"k": True}),
        ("knn", {"k": "5"}),
        ("knn", {"space": "z"}),
        ("knn_raw", {"space": "u"}),
        ("energy", {"space": "raw_logits"}),
        ("energy", {"temperature": 0}),
        ("energy", {"temperature": float("nan")}),
        ("energy_raw", {"temperature": "1"}),
        ("norm_profile", {"jitter": 0}),
        ("mahalanobis", {"jitter": 0}),
        ("mahalanobis", {"jitter": -1e-6}),
        ("mahalanobis", {"jitter": float("nan")}),
        ("mahalanobis", {"jitter": [1]}),
        ("mahalanobis", {"name": "other"}),
        ("relative_mahalanobis_raw", {"space": "u"}),
        ("gmm", {"jitter": 2}),
        ("norm_gain", {"stage": -1}),
        ("norm_gain", {"stage": 1.0}),
        ("norm_gain", {"stage": True}),
        ("msp_raw", {"space": "logits"}),
        ("max_logit", {"space": "raw_logits"}),
        ("entropy", {"space": "raw_logits"}),
        ("gen", {"gamma": 0}),
        ("gen", {"gamma": float("inf")}),
        ("gen_raw", {"gamma": "1"}),
        ("gen", {"top": 0}),
        ("gen", {"top": 2.5}),
        ("nci", {"alpha": -1e-4}),
        ("nci", {"alpha": float("nan")}),
        ("residual", {"dims": -1}),
        ("vim", {"dims": 2.0}),
        ("nnguide", {"fraction": 0}),
        ("nnguide", {"k": 0}),
        ("react", {"quantile": 1.1}),
        ("ash", {"prune": 1}),
        ("scale", {"prune": -0.1}),
        ("dice", {"sparsity": 1}),
    ],
)
def test_settings_that_make_no_sense_are_errors(name: str, given: dict[str, object]) -> None:
    with pytest.raises(ScoreError, match=name):
        scores.create(name, **given)


def test_the_guide_lists_every_score_with_its_defaults() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    table, _, _ = guide.partition("| score | what it is |")[2].partition("\n\n")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    defaults = {name: "".join(row[3:]) for row in rows for name in row[0].split(", ")}
    assert set(defaults) == set(scores.names())
    for name, text in defaults.items():
        stated = dict(re.findall(r"`(\w+)` ([\d.]+(?:e-\d+)?|by)", text))
        values = {key: value for key, value in scores.create(name).settings.items() if key != "space"}
        assert {key: None if value == "by" else float(value) for key, value in stated.items()} == values


def test_settings_that_are_not_the_usual_ones_are_told() -> None:
    assert scores.described(scores.create("knn")) == "knn"
    assert scores.described(scores.create("knn_raw", k=5)) == "knn_raw (k=5)"
    assert scores.described(scores.create("gen", gamma=0.2, top=3)) == "gen (gamma=0.2, top=3)"


def test_every_score_says_what_it_is() -> None:
    assert len({scores.summary(name) for name in scores.names()}) == len(scores.names())
    assert all(scores.summary(name).endswith(".") for name in scores.names())


@pytest.mark.parametrize(
    ("name", "setting"), [("knn", "k"), ("nnguide", "k"), ("gen", "top"), ("residual", "dims"), ("norm_gain", "stage")]
)
def test_whole_numbers_of_numpy_are_settings_and_what_is_none_is_not(name: str, setting: str) -> None:
    settings = scores.create(name, **{setting: np.int64(2)}).settings
    assert type(settings[setting]) is int
    for wrong in (2.0, True, "2", -1):
        with pytest.raises(ScoreError, match="needs"):
            scores.create(name, **{setting: wrong})


def test_scores_are_compared_by_their_settings() -> None:
    one, other = (scores.create("cosine").fit(random_features(30, seed)) for seed in (1, 2))
    assert one == other
    assert scores.create("knn", k=3) != scores.create("knn", k=4)
