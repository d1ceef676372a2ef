"""Labels as they stand with images."""

import numpy as np
import pytest
import torch

from normgate.data.labels import named_labels, plain
from normgate.data.sources import SourceError


def test_numbers_are_looked_up_in_classes():
    names, classes = named_labels([2, 0, "bird"], ["cat", "bird", "owl"])
    assert classes == ("cat", "bird", "owl")
    assert [names[label] for label in (2, 0, "bird")] == ["owl", "cat", "bird"]


def test_classes_of_one_name_are_told_apart():
    names, classes = named_labels([0, 1, 2], ["crane", "owl", "crane"])
    assert classes == ("crane (0)", "owl", "crane (2)")
    assert [names[i] for i in range(3)] == list(classes)


def test_without_names_numbers_come_first_and_in_their_order():
    names, classes = named_labels({"b", 10, 9, "a"})
    assert classes == ("9", "10", "a", "b")
    assert names == {9: "9", 10: "10", "a": "a", "b": "b"}


def test_what_is_no_label():
    with pytest.raises(SourceError, match="the label 2 is none of the 2 classes"):
        named_labels([0, 2], ["cat", "dog"])
    for label in (0.5, True, None):
        with pytest.raises(SourceError, match=f"label 1 is {label}; labels must be names or whole numbers"):
            named_labels([0, label])


def test_scalars_become_plain():
    assert [plain(value) for value in (np.int8(3), torch.tensor(4), np.str_("a"), "b", 5)] == [3, 4, "a", "b", 5]
    several = np.arange(2)
    assert plain(several) is several
