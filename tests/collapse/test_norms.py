from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from collapse_oracles import features_of, random_classes, relabelled
from normgate.collapse import CollapseError, norm_statistics, norm_statistics_by_class


def test_statistics_of_a_set_and_of_its_classes():
    lengths = np.array([1.0, 2, 3, 4, 10, 20])
    features = features_of(np.stack([lengths, 0 * lengths], axis=1), [0, 0, 0, 0, 2, 2], np.eye(3, 2))
    statistics = norm_statistics(features)
    assert (statistics.images, statistics.mean) == (6, lengths.mean())
    assert statistics.std == pytest.approx(np.std(lengths))
    assert statistics.variation == pytest.approx(np.std(lengths) / np.mean(lengths))
    assert (statistics.quantile(0.0), statistics.quantile(0.5), statistics.quantile(1.0)) == (1, 3.5, 20)
    first, second, third = norm_statistics_by_class(features)
    assert (first.images, first.mean, second, third.mean) == (4, 2.5, None, 15)
    assert json.loads(json.dumps(statistics.to_dict()))["quantiles"]["0.5"] == 3.5


def test_norms_are_those_of_the_magnitude_vector():
    features = features_of(np.ones((4, 2)), None, np.eye(2), m=[[3, 4, 0]] * 4)
    assert norm_statistics(features).mean == 5


def test_zero_norms_do_not_vary_by_any_share():
    assert norm_statistics(features_of(np.zeros((4, 2)), None, np.eye(2))).variation is None


def test_what_cannot_be_measured_is_named():
    features = random_classes()
    with pytest.raises(CollapseError, match="no images"):
        norm_statistics(features.select([]))
    with pytest.raises(CollapseError, match="with labels"):
        norm_statistics_by_class(relabelled(features, None))
    features.z[3] = torch.inf
    with pytest.raises(CollapseError, match="NaN or infinite"):
        norm_statistics(features)


def test_a_quantile_that_is_not_kept_is_refused():
    with pytest.raises(CollapseError, match=r"quantiles are kept at 0\.0, 0\.05, .*, not at 0\.9"):
        norm_statistics(random_classes()).quantile(0.9)
