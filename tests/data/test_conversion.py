from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision import transforms as v1
from torchvision.transforms import InterpolationMode, v2

from normgate.data.preprocessing import Preprocessing, PreprocessingError

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
SIZES = [(64, 64), (90, 61), (61, 90), (300, 40), (20, 20)]


def image(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


GEOMETRIES = {
    "shorter side and crop": [v1.Resize(40), v1.CenterCrop(32)],
    "shorter side in a list and crop": [v1.Resize([40]), v1.CenterCrop([32])],
    "squash": [v1.Resize((32, 48))],
    "squash and crop": [v1.Resize((41, 50)), v1.CenterCrop((32, 45))],
    "bicubic": [v1.Resize((32, 32), interpolation=InterpolationMode.BICUBIC)],
    "nearest": [v1.Resize((32, 32), interpolation=InterpolationMode.NEAREST)],
    "lanczos": [v1.Resize(33, interpolation=InterpolationMode.LANCZOS), v1.CenterCrop(33)],
    "box": [v1.Resize((32, 32), interpolation=InterpolationMode.BOX)],
    "v2": [v2.Resize(40, antialias=True), v2.CenterCrop(32)],
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_pixels_equal_torchvisions(name):
    steps = GEOMETRIES[name]
    preprocessing = Preprocessing.from_torchvision(v1.Compose([*steps, v1.ToTensor()]))
    for size in SIZES:
        expected = image(*size)
        for step in steps:
            expected = step(expected)
        np.testing.assert_array_equal(preprocessing.resized(image(*size)), np.asarray(expected))


TO_FLOAT = {
    "v1": [v1.ToTensor()],
    "v1 in two steps": [v1.PILToTensor(), v1.ConvertImageDtype(torch.float32)],
    "v2": [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)],
    "v2 with trimmings": [
        v2.RGB(),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.ToPureTensor(),
    ],
}


@pytest.mark.parametrize("normalize", [[], [v1.Normalize(MEAN, STD)], [v2.Normalize([0.5], [0.2])]])
@pytest.mark.parametrize("name", TO_FLOAT)
def test_numbers_equal_torchvisions(name, normalize):
    transform = v2.Compose([v2.Resize(40), v2.CenterCrop(32), *TO_FLOAT[name], *normalize])
    preprocessing = Preprocessing.from_torchvision(transform)
    found = preprocessing([image(50, 70)])
    expected = transform(image(50, 70)).numpy()
    if name.startswith("v1"):
        np.testing.assert_array_equal(found[0], expected)
    else:  # v2 multiplies by 1/255 where v1 divides
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-6)


def test_nesting():
    inner = v1.Compose([v1.Resize((32, 32)), torch.nn.Identity()])
    transform = v1.Compose([inner, v1.ToTensor(), torch.nn.Sequential(v1.Normalize(MEAN, STD))])
    assert Preprocessing.from_torchvision(transform) == Preprocessing(size=32, mean=MEAN, std=STD)


@pytest.mark.parametrize("weights", [models.ResNet18_Weights.IMAGENET1K_V1, models.ViT_B_16_Weights.DEFAULT])
def test_presets(weights):
    transform = weights.transforms()
    preprocessing = Preprocessing.from_torchvision(transform)
    found = preprocessing([image(300, 260)])
    np.testing.assert_allclose(found[0], transform(image(300, 260)).numpy(), atol=1e-6)


def test_images_that_have_their_size_already():
    transform = v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)])
    assert Preprocessing.from_torchvision(transform, size=32) == Preprocessing(size=32, mean=MEAN, std=STD)
    assert Preprocessing.from_torchvision(v1.ToTensor(), size=(4, 5)) == Preprocessing(size=(4, 5))
    with pytest.raises(PreprocessingError, match="no Resize; say with size="):
        Preprocessing.from_torchvision(transform)


class Resize(v1.Resize):
    """Does what it likes."""


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            [v1.Resize(32), v1.RandomHorizontalFlip(), v1.ToTensor()],
            "RandomHorizontalFlip is none of the steps",
        ),
        ([v1.RandomResizedCrop(32), v1.ToTensor()], "RandomResizedCrop"),
        ([v1.Resize(32), v1.CenterCrop(32), v1.Grayscale(3), v1.ToTensor()], "Grayscale"),
        ([v1.Lambda(lambda x: x), v1.ToTensor()], "Lambda"),
        ([lambda x: x, v1.ToTensor()], "function"),
        ([Resize(32), v1.ToTensor()], r"test_conversion\.Resize"),
        ([v1.Resize(32), v1.ToTensor()], r"Resize\(32\) alone gives images of many shapes"),
        ([v1.CenterCrop(32), v1.ToTensor()], "CenterCrop without a single Resize"),
        ([v1.CenterCrop(64), v1.Resize(32), v1.ToTensor()], "CenterCrop without a single Resize"),
        ([v1.Resize(32), v1.CenterCrop(32), v1.CenterCrop(16), v1.ToTensor()], "CenterCrop without a single"),
        ([v1.Resize((32, 32)), v1.Resize((16, 16)), v1.ToTensor()], "Resize comes twice"),
        ([v1.Resize(32, max_size=64), v1.CenterCrop(32), v1.ToTensor()], "max_size"),
        ([v1.Resize(32), v1.CenterCrop(40), v1.ToTensor()], "padding"),
        ([v1.ToTensor(), v1.Resize((32, 32))], "Resize of tensors is not Pillow's: put it before"),
        ([v2.ToImage(), v2.Resize((32, 32)), v2.ToDtype(torch.float32, scale=True)], "Resize of tensors"),
        ([v1.Resize((32, 32))], "gives no float tensor"),
        ([v1.Resize((32, 32)), v1.PILToTensor()], "gives no float tensor"),
        ([v1.Resize((32, 32)), v1.PILToTensor(), v1.ConvertImageDtype(torch.float16)], "torch.float32"),
        ([v1.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32)], "scale=True"),
        ([v1.Resize((32, 32)), v1.ToTensor(), v1.ToTensor()], "ToTensor must come once"),
        ([v1.Normalize(MEAN, STD), v1.ToTensor()], "Normalize must come once, after"),
        ([v1.Resize((32, 32)), v1.ToTensor(), *[v1.Normalize(MEAN, STD)] * 2], "Normalize must come once"),
        ([v1.Resize((32, 32)), v1.ToTensor(), v1.Normalize([0.5] * 4, [0.5] * 4)], "three numbers"),
        (
            [v1.Resize((32, 32), interpolation=InterpolationMode.NEAREST_EXACT), v1.ToTensor()],
            "nearest-exact",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(steps, message):
    with pytest.raises(PreprocessingError, match=message):
        Preprocessing.from_torchvision(v1.Compose(steps))


def test_a_crop_after_the_tensor_is_the_same_crop():
    transform = v1.Compose([v1.Resize(40), v1.ToTensor(), v1.CenterCrop(32)])
    found = Preprocessing.from_torchvision(transform)([image(50, 71)])
    np.testing.assert_array_equal(found[0], transform(image(50, 71)).numpy())


class TestTimm:
    timm = pytest.importorskip("timm")

    @pytest.mark.parametrize(
        "config",
        [
            {
                "input_size": (3, 64, 64),
                "crop_pct": 0.875,
                "interpolation": "bicubic",
                "mean": MEAN,
                "std": STD,
            },
            {"input_size": (3, 64, 64), "crop_pct": 0.9, "interpolation": "bilinear", "crop_mode": "center"},
            {"input_size": (3, 64, 64), "crop_pct": 1.0, "crop_mode": "squash", "mean": (0.5,) * 3},
            {"input_size": (3, 48, 64), "crop_pct": 0.95, "crop_mode": "squash"},
        ],
    )
    def test_a_configuration(self, config):
        from timm.data import create_transform, resolve_data_config

        resolved = resolve_data_config(pretrained_cfg=config)
        transform = create_transform(**resolved, is_training=False)
        for given in (resolved, config):
            preprocessing = Preprocessing.from_timm(given)
            for size in SIZES:
                np.testing.assert_array_equal(preprocessing([image(*size)])[0], transform(image(*size)).numpy())

    def test_a_model(self):
        model = self.timm.create_model("resnet10t", num_classes=2)
        config = self.timm.data.resolve_data_config(model=model)
        assert Preprocessing.from_timm(model) == Preprocessing.from_timm(config)

    def test_its_transform(self):
        from timm.data import create_transform

        transform = create_transform((3, 32, 32), is_training=False, crop_pct=1.0, mean=MEAN, std=STD)
        preprocessing = Preprocessing.from_torchvision(transform)
        np.testing.assert_array_equal(preprocessing([image(40, 50)])[0], transform(image(40, 50)).numpy())

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({}, "no input_size"),
            ({"input_size": 224}, "no input_size"),
            ({"input_size": (1, 28, 28)}, "1 channels"),
            ({"input_size": (3, 64, 64), "crop_mode": "border"}, "crop_mode 'border' pads"),
            ({"input_size": (3, 64, 48), "crop_pct": 0.9}, "not square"),
            ({"input_size": (3, 64, 64), "interpolation": "random"}, "interpolation is 'random'"),
            (object(), "neither a data configuration"),
        ],
    )
    def test_what_cannot_be_written(self, config, message):
        with pytest.raises(PreprocessingError, match=message):
            Preprocessing.from_timm(config)
