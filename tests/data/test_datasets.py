from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset
from torchvision import datasets, transforms

from normgate.data.datasets import DatasetImages, torchvision_images
from normgate.data.decoding import ImageError, decode
from normgate.data.sources import SourceError, open_source


class Numbered:
    """Images of one colour each, with labels."""

    def __init__(self, items, **attributes):
        self.items = items
        vars(self).update(attributes)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return Image.new("RGB", (2, 2), (index, 0, 0)), self.items[index]


def labels(source):
    return [record.label for record in source]


def test_a_data_set_with_names():
    source = DatasetImages(Numbered([2, 0, 2], classes=["cat", "bird", "owl"]), labelled=True)
    assert source.classes == ("cat", "bird", "owl")
    assert labels(source) == ["owl", "cat", "owl"]
    assert [record.id for record in source] == ["Numbered#0", "Numbered#1", "Numbered#2"]
    assert [decode(record.payload).getpixel((0, 0))[0] for record in source] == [0, 1, 2]
    assert len(source) == 3


@pytest.mark.parametrize(
    "dataset",
    [
        Numbered([10, 9, 10]),
        Numbered(np.array([10, 9, 10])),
        Numbered(torch.tensor([10, 9, 10])),
        Numbered([10, 9, 10], targets=torch.tensor([10, 9, 10])),
        Numbered([10, 9, 10], labels=np.array([10, 9, 10])),
        Numbered([10, 9, 10], targets=[1]),  # of something else
    ],
)
def test_a_data_set_without_names(dataset):
    source = DatasetImages(dataset, labelled=True, name="pack")
    assert source.classes == ("9", "10")
    assert labels(source) == ["10", "9", "10"]


def test_a_subset_takes_names_from_the_whole():
    whole = Numbered([2, 0, 1, 1], classes=["cat", "bird", "owl"])
    source = DatasetImages(Subset(Subset(whole, [0, 2, 3]), [0, 1]), labelled=True)
    assert source.classes == ("cat", "bird", "owl")
    assert labels(source) == ["owl", "bird"]


def test_several_words_for_a_class_are_joined():
    source = DatasetImages(Numbered([0, 1], classes=[("tench", "Tinca tinca"), ("crane",)]), labelled=True)
    assert source.classes == ("tench, Tinca tinca", "crane")


def test_labels_are_not_looked_at_where_none_are_wanted():
    source = DatasetImages(Numbered([None, [1], 7], classes=["a"]), labelled=False)
    assert source.classes is None
    assert labels(source) == [None] * 3
    assert len(list(DatasetImages([Image.new("L", (2, 2))], labelled=False))) == 1


def test_data_sets_of_something_else():
    with pytest.raises(SourceError, match="data set Numbered is empty"):
        DatasetImages(Numbered([]), labelled=False)
    tensors = TensorDataset(torch.zeros(2, 3, 4, 4), torch.zeros(2))
    with pytest.raises(
        SourceError, match=r"gives Tensor, not Pillow images or uint8 arrays; make it without transform="
    ):
        DatasetImages(tensors, labelled=False)
    with pytest.raises(SourceError, match=r"gives no class with an image, but \[1\]"):
        DatasetImages(Numbered([[1]]), labelled=True)
    with pytest.raises(SourceError, match="Numbered#1 has the label 2, which is none"):
        list(DatasetImages(Numbered([0, 2], classes=["a", "b"]), labelled=True))


def test_an_item_that_cannot_be_read_is_one_error(save, tmp_path):
    for name in ("cat/0.png", "cat/1.png", "owl/0.png"):
        save(name)
    (tmp_path / "cat" / "1.png").write_bytes(b"rubbish")
    records = list(DatasetImages(datasets.ImageFolder(tmp_path), labelled=True))
    assert [record.label for record in records] == ["cat", None, "owl"]
    with pytest.raises(ImageError, match="the data set cannot read it"):
        decode(records[1].payload)


def test_torchvision_by_name():
    source = torchvision_images("FakeData?size=3&num_classes=4", labelled=True)
    assert len(source) == 3
    records = list(source)
    assert [record.id for record in records] == ["FakeData#0", "FakeData#1", "FakeData#2"]
    assert {record.label for record in records} <= set(source.classes)
    assert decode(records[0].payload).size == (224, 224)


def test_torchvision_with_a_folder(save, tmp_path):
    for name in ("a b/cat/0.png", "a b/owl/0.png"):
        save(name)
    source = torchvision_images(f"ImageFolder?root={tmp_path}/a%20b", labelled=True)
    assert source.classes == ("cat", "owl")
    assert labels(source) == ["cat", "owl"]


def test_torchvision_reads_its_own_files(tmp_path):
    digits = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        header = np.array([0x803, *digits.shape], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + digits.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, 6], ">i4").tobytes() + bytes(range(6)))
    source = open_source(f"torchvision:MNIST?root={tmp_path}&train=false", labelled=True)
    assert len(source.classes) == 10
    assert labels(source) == list(source.classes[:6])
    for record, digit in zip(source, digits, strict=True):
        assert (np.asarray(decode(record.payload)) == digit[:, :, None]).all()


@pytest.mark.parametrize("name", ["LSUN", "LSUNClass"])
def test_what_would_unpickle_a_file_of_the_current_folder_is_refused(name):
    with pytest.raises(SourceError, match="unpickles a file of the current folder"):
        torchvision_images(f"{name}?root=.", labelled=True)


def test_what_torchvision_does_not_have(tmp_path):
    with pytest.raises(SourceError, match=r"no data set 'CIFAR1O'; did you mean CIFAR10.* choose from: .*MNIST"):
        torchvision_images("CIFAR1O?root=x", labelled=True)
    with pytest.raises(SourceError, match="no data set 'wrap_dataset_for_transforms_v2'"):
        torchvision_images("wrap_dataset_for_transforms_v2", labelled=True)
    with pytest.raises(SourceError, match="takes no 'split'; it takes: root, train, download"):
        torchvision_images("CIFAR10?root=x&split=test", labelled=True)
    with pytest.raises(SourceError, match="takes no 'transform'"):
        torchvision_images("CIFAR10?root=x&transform=y", labelled=True)
    with pytest.raises(SourceError, match=r"needs root: write torchvision:CIFAR10\?root=…"):
        torchvision_images("CIFAR10", labelled=True)
    with pytest.raises(SourceError, match="not understood at 'root'"):
        torchvision_images("CIFAR10?root", labelled=True)


def test_nothing_is_downloaded_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: pytest.fail("downloads"))
    with pytest.raises(SourceError, match=r"cannot be opened: .*; add &download=true to fetch it"):
        torchvision_images(f"CIFAR10?root={tmp_path}&train=false", labelled=True)


def test_the_arguments_are_of_the_right_kind(monkeypatch):
    seen = {}

    class Spy(datasets.FakeData):
        def __init__(self, root: str, train: bool = True, fold: int = 1, split: str = "a") -> None:
            seen.update(root=root, train=train, fold=fold, split=split)
            super().__init__(size=1, transform=transforms.Resize(2))

    monkeypatch.setattr(datasets, "FakeData", Spy)
    torchvision_images("FakeData?root=x%3Fy&train=False&fold=-3&split=b", labelled=False)
    assert seen == {"root": "x?y", "train": False, "fold": -3, "split": "b"}
