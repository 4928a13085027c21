"""The ImageNet-1k weights of `weights: imagenet`: one set for each net of torchvision and timm, and the input it expects.

Written down here, so that a config resolves without either library and means the same with every version of them; a test
compares the table with the installed ones. torchvision's are its DEFAULT weights. timm's are its default tags, but for
convnext_tiny, whose default saw ImageNet-12k first.
"""

from __future__ import annotations

from dataclasses import dataclass

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, per channel in 0..1, for all of these weights
HUB_FILE = "model.safetensors"


@dataclass(frozen=True)
class Published:
    """One set of weights.

    source: for torchvision the file under TORCHVISION_URL, whose name ends with the start of its SHA-256; for timm the
    repository on the hub that holds HUB_FILE. size: pixels a side that it was evaluated at.
    """

    family: str
    source: str
    size: int
    interpolation: str
    license: str

    @property
    def on_hub(self) -> bool:
        """Is it a repository on the hub, and not a file at an address?"""
        return self.family.startswith("timm/")


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
    )
}
