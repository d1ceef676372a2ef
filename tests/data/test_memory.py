from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from normgate.data.decoding import ImageError, decode
from normgate.data.memory import ImageList
from normgate.data.sources import SourceError, open_source


def labels(source: ImageList) -> list[str | None]:
    return [record.label for record in source]


def test_images_of_every_kind(save, encode, noise):
    array = noise(4, 5, 3)
    images = [array, Image.fromarray(array), encode(array), save("a.png"), str(save("b.png"))]
    source = ImageList(images)
    assert len(source) == 5
    assert source.classes is None
    records = list(source)
    assert [record.id for record in records[:3]] == ["array#0", "array#1", "array#2"]
    assert [record.id for record in records[3:]] == [str(path) for path in images[3:]]
    assert {decode(record.payload).size for record in records} == {(5, 4)}


def test_one_array_of_many_images(noise):
    batch = noise(3, 4, 5, 3)
    for record, expected in zip(ImageList(batch), batch, strict=True):
        np.testing.assert_array_equal(np.asarray(decode(record.payload)), expected)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_numbers_are_labels_of_any_kind(noise, kind):
    source = ImageList(noise(3, 4, 4, 3), kind([10, 9, 10]))
    assert source.classes == ("9", "10")  # as numbers, not as strings
    assert labels(source) == ["10", "9", "10"]


def test_names_are_labels(noise):
    source = ImageList(noise(3, 4, 4, 3), np.array(["b", "a", "b"]))
    assert source.classes == ("a", "b")
    assert labels(source) == ["b", "a", "b"]


def test_groups(noise):
    source = ImageList(noise(2, 4, 4, 3), ["a", "b"], groups=np.array([7, 8]))
    assert [record.group for record in source] == ["7", "8"]
    images = noise(3, 4, 4, 3)
    source = open_source((images, [0, 1, 1], ["x", None, "x"]), labelled=True)
    assert [record.group for record in source] == ["x", None, "x"]
    assert labels(open_source((list(images), [0, 1, 1], [1, 1, 2]), labelled=False)) == [None] * 3


def test_what_does_not_fit_together(noise):
    images = noise(2, 4, 4, 3)
    with pytest.raises(SourceError, match="holds no image"):
        ImageList([])
    with pytest.raises(SourceError, match="2 images and 1 labels"):
        ImageList(images, ["a"])
    with pytest.raises(SourceError, match="2 images and 3 groups"):
        ImageList(images, groups=[1, 2, 3])
    with pytest.raises(SourceError, match=r"label 1 is 0.5; labels must be names or whole numbers"):
        ImageList(images, [0, 0.5])
    with pytest.raises(SourceError, match=r"label 0 is array\(\[1., 0.\]\); labels must be names or whole numbers"):
        ImageList(images, np.eye(2))
    with pytest.raises(SourceError, match="label 0 is True"):
        ImageList(images, [True, False])


def test_what_is_no_image_is_found_when_it_is_decoded():
    (record,) = ImageList([np.zeros((4, 4, 3))])
    with pytest.raises(ImageError, match="float64, not uint8"):
        decode(record.payload)
