"""The pass through the cache: the same features as without it, and no image through the network twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import normgate
from normgate.data.sources import Record, Records, open_source
from normgate.evaluation import Evaluation, FeatureCache, evaluate
from normgate.evaluation.extraction import Reader
from normgate.extractor import Extraction, FeatureExtractor, extract
from normgate.features import FeatureError, Features
from normgate.progress import silent
from normgate.verdicts import NOT_FINITE
from samples import CLASSES, FLAT, PREPROCESSING, overflowing_network, random_records, small_network


class Counting(FeatureExtractor):
    """Counts the images that go through its network; not by a hook, whose notes would be part of the network."""

    images = 0

    def unchecked(self, images: np.ndarray | torch.Tensor) -> Features:
        self.images += len(images)
        return super().unchecked(images)


class Counted:
    """Reads with an extractor that counts."""

    def __init__(self, network: nn.Module | None = None, preprocessing: Any = PREPROCESSING) -> None:
        self.extractor = Counting(network or small_network(), preprocessing, search=False)

    @property
    def images(self) -> int:
        return self.extractor.images

    def read(self, source: Any, cache: FeatureCache, batch_size: int = 4, classes: Any = CLASSES) -> Extraction:
        reader = Reader(self.extractor, cache, batch_size, 2, 10_000, silent)
        return reader.read(source, classes if source.classes else None, "test")


def equal(a: Extraction, b: Extraction) -> bool:
    for name in ("z", "logits", "weight", "bias", "labels", "m", "stage_norms"):
        mine, theirs = getattr(a.features, name), getattr(b.features, name)
        if (mine is None) != (theirs is None) or (mine is not None and not torch.equal(mine, theirs)):
            return False
    return (a.features.ids, a.features.temperature, a.errors) == (b.features.ids, b.features.temperature, b.errors)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", chunk=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty images, of which two are broken."""
    (tmp_path / "images").mkdir()
    for number, record in enumerate(random_records(40, 1)):
        Image.fromarray(record.payload).save(tmp_path / "images" / f"{number:02d}.png")
    (tmp_path / "images" / "07.png").write_bytes(b"no image")
    (tmp_path / "images" / "20.png").write_bytes((tmp_path / "images" / "21.png").read_bytes()[:60])
    return tmp_path / "images"


def flat(folder: Path) -> Any:
    return open_source(folder, labelled=False)


def test_an_image_without_finite_features_is_an_error_that_is_kept(cache: FeatureCache, folder: Path) -> None:
    Image.fromarray(FLAT).save(folder / "30.png")
    network = overflowing_network()
    plain = extract(FeatureExtractor(network, PREPROCESSING, search=False), flat(folder), batch_size=7)
    assert ("30.png", NOT_FINITE) in plain.errors
    counted = Counted(network)
    for _ in range(2):
        assert equal(counted.read(flat(folder), cache, 7), plain)
        assert counted.images == 38


@pytest.mark.parametrize("batch_size", [1, 4, 7, 16, 100])
def test_as_without_a_cache_and_then_without_the_network(cache: FeatureCache, folder: Path, batch_size: int) -> None:
    network = normgate.l2norm(small_network(), temperature=0.5)
    plain = extract(FeatureExtractor(network, PREPROCESSING, search=False), flat(folder), batch_size=batch_size)
    assert len(plain.errors) == 2
    counted = Counted(network)
    assert equal(counted.read(flat(folder), cache, batch_size), plain)
    assert counted.images == 38
    assert equal(counted.read(flat(folder), cache, batch_size), plain)
    assert counted.images == 38


def test_labels_and_names_are_not_cached(cache: FeatureCache) -> None:
    records = random_records(40, 1)
    Counted().read(records, cache)
    renamed = [Record(f"new/{i}", record.payload, CLASSES[(i + 1) % 3]) for i, record in enumerate(records)]
    again = Counted()
    found = again.read(Records(renamed, CLASSES), cache)
    assert again.images == 0
    assert found.features.ids[3] == "new/3"
    assert found.features.labels.tolist() == [(i + 1) % 3 for i in range(40)]
    assert again.read(Records(renamed), cache).features.labels is None
    with pytest.raises(FeatureError, match="new/0 has the label 'dog', which is none of the 2 classes"):
        again.read(Records(renamed, CLASSES), cache, classes=("cat", "owl"))


def test_a_label_that_is_no_class_is_said_before_its_image_is_judged(cache: FeatureCache) -> None:
    own = Counted()
    with pytest.raises(FeatureError, match="which is none of the 2 classes"):
        own.read(random_records(40, 1), cache, classes=("cat", "dog"))
    assert own.images == 0


def test_files_that_move_and_come_in_another_order_are_found(cache: FeatureCache, folder: Path, tmp_path: Path) -> None:
    for number in range(16, 40):
        (folder / f"{number:02d}.png").unlink()
    before = Counted().read(flat(folder), cache)
    for number in range(16):
        shutil.copy(folder / f"{number:02d}.png", folder / f"x{99 - number}.png")
        (folder / f"{number:02d}.png").unlink()
    folder.rename(tmp_path / "moved")
    again = Counted()
    after = again.read(flat(tmp_path / "moved"), cache)
    assert again.images == 0
    assert torch.equal(after.features.z, before.features.z.flip(0))
    assert [name for name, _ in after.errors] == ["x92.png"]
    assert after.errors[0][1] == before.errors[0][1]


def changed_pixel(folder: Path) -> Counted:
    pixels = np.asarray(Image.open(folder / "03.png")).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "03.png")
    return Counted()


def changed_weight(_: Path) -> Counted:
    network = small_network()
    with torch.no_grad():
        network[5].bias[0] += 1e-3
    return Counted(network)


def changed_preprocessing(_: Path) -> Counted:
    return Counted(preprocessing=normgate.Preprocessing((8, 8), interpolation="nearest"))


def normalised(_: Path) -> Counted:
    return Counted(normgate.l2norm(small_network()))


@pytest.mark.parametrize(
    ("change", "images"),
    [(changed_pixel, 15), (changed_weight, 38), (changed_preprocessing, 38), (normalised, 38)],
)
def test_what_changed_is_computed_again(
    cache: FeatureCache, folder: Path, change: Callable[[Path], Counted], images: int
) -> None:
    Counted().read(flat(folder), cache)
    new = change(folder)
    found = new.read(flat(folder), cache)
    assert new.images == images
    assert equal(found, extract(new.extractor, flat(folder), batch_size=4))


def test_a_killed_run_goes_on(cache: FeatureCache, folder: Path) -> None:
    class Killed(BaseException):
        pass

    def stop(_: str, done: int, __: int | None) -> None:
        if done == 36:
            raise Killed

    counted = Counted()
    with pytest.raises(Killed):
        Reader(counted.extractor, cache, 4, 2, 10_000, stop).read(flat(folder), None, "test")
    assert counted.images == 34
    found = counted.read(flat(folder), cache)
    assert counted.images == 34 + 8  # those of the last chunk
    assert equal(found, extract(counted.extractor, flat(folder), batch_size=4))


def test_a_damaged_entry_is_healed(cache: FeatureCache, folder: Path) -> None:
    first = Counted().read(flat(folder), cache)
    damaged = sorted(cache.folder.iterdir())[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again, third = Counted(), Counted()
    assert equal(again.read(flat(folder), cache), first)
    assert 0 < again.images <= 16
    assert damaged.stat().st_size == len(whole)
    assert equal(third.read(flat(folder), cache), first)
    assert third.images == 0


def test_a_file_that_changes_during_the_pass_is_not_kept(cache: FeatureCache, folder: Path) -> None:
    for number in range(16, 40):
        (folder / f"{number:02d}.png").unlink()
    source = flat(folder)

    class Meddling:
        classes, skipped = None, 0

        def __len__(self) -> int:
            return 16

        def __iter__(self) -> Iterator[Record]:
            return iter(source)

    counted = Counted()
    extractor = counted.extractor

    def meddle(*_: object) -> None:
        shutil.copy(folder / "14.png", folder / "15.png")

    extractor.model.register_forward_hook(meddle)
    counted.read(Meddling(), cache)
    assert list(cache.folder.iterdir()) == []
    again = Counted()
    assert equal(again.read(flat(folder), cache), extract(again.extractor, flat(folder), batch_size=4))


def test_a_full_disk_ends_the_caching_and_not_the_run(cache: FeatureCache, folder: Path) -> None:
    cache.folder.rmdir()
    cache.folder.write_text("in the way")
    counted = Counted()
    with pytest.warns(UserWarning, match="not cached any more"):
        found = counted.read(flat(folder), cache)
    assert equal(found, extract(counted.extractor, flat(folder), batch_size=4))


def test_a_source_of_which_nothing_can_be_read(cache: FeatureCache) -> None:
    broken = Records([Record("a", b"no"), Record("b", b"image")])
    for _ in range(2):
        with pytest.raises(FeatureError, match="there is no image that can be read; the first of 2 errors: a: "):
            Counted().read(broken, cache)


def test_stages_and_magnitudes_come_back(cache: FeatureCache) -> None:
    network = normgate.Backbone("convnext_atto", 3, args={"depths": [1, 1, 1, 1], "dims": [4, 4, 4, 8]}).build().eval()
    pictures = Records([Record(r.id, np.kron(r.payload, np.ones((8, 8, 1), np.uint8))) for r in random_records(5, 1)])
    extractor = FeatureExtractor(network, normgate.Preprocessing((64, 64)))
    reader = Reader(extractor, cache, 4, 0, 10_000, silent)
    first, second = reader.read(pictures, None, "a"), reader.read(pictures, None, "a")
    assert first.features.m is not None
    assert first.features.stage_norms is not None
    assert equal(first, second)


def test_evaluating_twice(tmp_path: Path) -> None:
    network = small_network()
    seen: list[int] = []
    options = {"preprocessing": PREPROCESSING, "train": random_records(60, 1), "cache": tmp_path / "c"}

    def note(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if module is network:
            seen.append(len(args[0]))

    def run() -> tuple[Evaluation, int]:
        before = sum(seen)
        with register_module_forward_pre_hook(note):
            found = evaluate(network, random_records(30, 2), {"a": random_records(20, 3)}, **options)
        return found, sum(seen) - before

    first, images = run()
    assert images == 110 + 2  # two of noise show where the magnitude is
    second, images = run()
    assert images == 2
    assert second.metrics == first.metrics
    assert {**second.to_dict(images=True), "seconds": 0} == {**first.to_dict(images=True), "seconds": 0}


def test_two_networks_never_share(tmp_path: Path) -> None:
    known, odd = random_records(30, 2), {"a": random_records(20, 3)}
    networks = [small_network(0), small_network(1), normgate.l2norm(small_network(0)), nn.Sequential(*small_network(0))]
    networks[3][2] = nn.GELU()
    alone = [evaluate(network, known, odd, preprocessing=PREPROCESSING) for network in networks]
    for _ in range(2):
        for network, expected in zip(networks, alone, strict=True):
            found = evaluate(network, known, odd, preprocessing=PREPROCESSING, cache=tmp_path / "c")
            assert found.metrics == expected.metrics
            assert all(np.array_equal(found.values[name]["a"], expected.values[name]["a"]) for name in found.values)
