"""Nets of torchvision and timm with a head of our own; their backbones keep the libraries' names, so that weights fit.

The backbone is the library's net without its last linear layer. Regularization of its own that a library switches on by
default (dropout, stochastic depth) is off: dropout is the head's, and a phase may change it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.dropout import _DropoutNd

from cifar_small._torchvision import import_torchvision
from cifar_small.config.schema import LibraryModel
from cifar_small.errors import ConfigError
from cifar_small.models.blocks import Dropout, SqueezeExcitation
from cifar_small.models.efficientnet_lite import timm_state

TIMM_NAMES = {"mobilenet_v3_small": "mobilenetv3_small_100"}  # where timm's name is another than ours
RATES = ("drop_rate", "drop_prob")  # of dropout in timm's nets, and of DropPath
SE_REDUCTION = 16  # of the attention head, as in Hu et al. (2018)
CLASSIFIERS = {  # the layer that the head replaces, by library and net
    "torchvision": {
        "resnet18": "fc",
        "resnet50": "fc",
        "efficientnet_b0": "classifier.1",
        "efficientnet_b2": "classifier.1",
        "convnext_tiny": "classifier.2",
        "mobilenet_v3_small": "classifier.3",
    },
    "timm": {
        "resnet18": "fc",
        "resnet50": "fc",
        "efficientnet_b0": "classifier",
        "efficientnet_b2": "classifier",
        "convnext_tiny": "head.fc",
        "mobilenet_v3_small": "classifier",
        "tf_efficientnet_lite0": "classifier",
        "tf_efficientnet_lite1": "classifier",
        "tf_efficientnet_lite2": "classifier",
    },
}


class LibraryNet(nn.Module):
    """A library's backbone, attention to its feature map (or none), pooling, dropout and a linear classifier.

    Maps normalized images (N, 3, H, W) to logits (N, K). Raises ConfigError for a net of timm where timm is not installed.
    """

    def __init__(self, model: LibraryModel, num_classes: int) -> None:
        super().__init__()
        library, _, name = model.family.partition("/")
        self.name = name
        known = CLASSIFIERS[library].get(name)
        if known is None and model.head == "se":
            raise ConfigError(f"model.head se is there for {', '.join(CLASSIFIERS[library])} of {library}, not for {name}")
        self.classifiers: tuple[str, ...]  # their names in the library's state dicts; timm's distilled nets have two
        self.backbone: Any
        self.feature_map: Callable[[Any, Tensor], Tensor]
        self.pool: Callable[[Any, Tensor], Tensor]
        if library == "timm":
            self.backbone, self.feature_map, self.pool = _timm_net(name), _timm_map, _timm_pool
            named = known or self.backbone.pretrained_cfg["classifier"]
            self.classifiers = (named,) if isinstance(named, str) else tuple(named)
            channels, features = self.backbone.num_features, self.backbone.head_hidden_size
        elif known is None:
            self.backbone, classifier, features = _any_torchvision_net(name, model.stem)
            self.classifiers = (classifier,)
            channels, self.feature_map, self.pool = features, _whole, _unchanged
        else:
            self.classifiers = (known,)
            self.backbone, channels, features = _torchvision_net(name, known, model.stem)
            residual = name.startswith("resnet")
            self.feature_map = _resnet_map if residual else _features_map
            self.pool = _resnet_pool if residual else _norm_pool if name.startswith("convnext") else _classifier_pool
        match model.head:
            case "se":
                self.attention: nn.Module = SqueezeExcitation(channels, SE_REDUCTION)
            case "plain" | "dropout":
                self.attention = nn.Identity()
            case unknown:
                assert_never(unknown)
        self.dropout = Dropout(model.dropout)
        self.fc = nn.Linear(features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images (N, 3, H, W) to logits (N, K)."""
        return self.classify(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """The backbone's output, for which nothing of the head is needed: (N, F), or with head se its map (N, F, H, W)."""
        x = self.feature_map(self.backbone, images)
        return self.pool(self.backbone, x) if isinstance(self.attention, nn.Identity) else x

    def classify(self, features: Tensor) -> Tensor:
        """Map features to logits (N, K)."""
        if not isinstance(self.attention, nn.Identity):
            features = self.pool(self.backbone, self.attention(features))
        return self.fc(self.dropout(features))  # type: ignore[no-any-return]

    def from_library(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict with the library's names, as one with ours, without its classifiers."""
        left_out = self._of_classifiers()
        state = timm_state(self.name, state)
        return {f"backbone.{name}": value for name, value in state.items() if name not in left_out}

    def refusal(self, side: int, error: BaseException) -> str:
        """Why the net cannot compute images of `side` pixels: many, such as vision transformers, are made for one size."""
        reason, usual = " ".join(str(error).split())[:200] or type(error).__name__, self._usual_side()
        told = f"set input.size: {usual}" if usual not in (None, side) else "set another input.size"
        return f"cannot compute an image of 3x{side}x{side}: {reason}; {told} (a phase's resolution likewise)"

    def _usual_side(self) -> int | None:
        """Pixels a side of the images that the library made the net for; None where it does not say."""
        if hasattr(self.backbone, "pretrained_cfg"):
            size = self.backbone.pretrained_cfg.get("input_size")
            return int(size[-1]) if size else None
        weights = import_torchvision("models").get_model_weights(self.name).DEFAULT
        return int(weights.transforms().crop_size[0])

    def library_names(self) -> set[str]:
        """The names of the library's own tensors, its classifiers among them."""
        return {*self.backbone.state_dict(), *self._of_classifiers()}

    def _of_classifiers(self) -> set[str]:
        return {f"{classifier}.{kind}" for classifier in self.classifiers for kind in ("weight", "bias")}

    def answer(self, images: Tensor, state: Mapping[str, Tensor]) -> Tensor:
        """Logits of normalized images, with the classifier of a state dict in the library's names in place of our head."""
        features = self.pool(self.backbone, self.feature_map(self.backbone, images))
        state = timm_state(self.name, state)
        return F.linear(features, *(state[f"{self.classifiers[0]}.{kind}"].to(features) for kind in ("weight", "bias")))


def _torchvision_net(name: str, classifier: str, stem: Literal["imagenet", "cifar"]) -> tuple[Any, int, int]:
    """The net without its classifier, the channels of its feature map, and the features that its classifier had."""
    # Stochastic depth of efficientnet and convnext; the others have none and no such argument.
    options = {"stochastic_depth_prob": 0.0} if name.startswith(("efficientnet", "convnext")) else {}
    net = import_torchvision("models").get_model(name, weights=None, **options)
    head = getattr(net, classifier.partition(".")[0])
    channels = next(module for module in head.modules() if isinstance(module, nn.Linear)).in_features
    features = net.get_submodule(classifier).in_features
    for dropout in [path for path, module in head.named_children() if isinstance(module, nn.Dropout)]:
        setattr(head, dropout, nn.Identity())
    net.set_submodule(classifier, nn.Identity())
    _set_stem(net, stem)
    return net, channels, features


def _set_stem(net: Any, stem: Literal["imagenet", "cifar"]) -> None:
    """Give a ResNet of torchvision a stem for small pictures."""
    match stem:
        case "imagenet":
            pass
        case "cifar":
            net.conv1 = nn.Conv2d(3, net.conv1.out_channels, 3, padding=1, bias=False)
            if not net.conv1.weight.is_meta:
                nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
            net.maxpool = nn.Identity()
        case unknown:
            assert_never(unknown)


def _any_torchvision_net(name: str, stem: Literal["imagenet", "cifar"]) -> tuple[Any, str, int]:
    """A net that is not among those tried, without its last linear layer; that layer's name, and the features it had."""
    models = import_torchvision("models")
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        raise ConfigError(f"torchvision has no classifier {name}" + (f"; near: {', '.join(near)}" if near else ""))
    auxiliary = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    net = models.get_model(name, weights=None, **auxiliary)
    _switch_off_dropout(net)
    linear = [(path, module) for path, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigError(
            f"torchvision/{name} ends in a convolution; expected a net with a linear classifier, which is replaced"
        )
    classifier, last = linear[-1]
    net.set_submodule(classifier, nn.Identity())
    _set_stem(net, stem)
    return net, classifier, last.in_features


def _switch_off_dropout(net: nn.Module) -> None:
    """Set every rate of dropout and stochastic depth to 0, in layers and where a net calls the function with a rate it keeps.

    After the net is built, because not every net of the libraries takes these rates as arguments.
    """
    for module in net.modules():
        for rate in ("p", *RATES) if isinstance(module, _DropoutNd) or type(module).__name__ == "StochasticDepth" else RATES:
            if isinstance(getattr(module, rate, None), float | int):
                setattr(module, rate, 0.0)


def _whole(net: Any, images: Tensor) -> Tensor:
    return net(images)  # type: ignore[no-any-return]


def _unchanged(_: Any, x: Tensor) -> Tensor:
    return x


def _resnet_map(net: Any, images: Tensor) -> Tensor:
    x = net.maxpool(net.relu(net.bn1(net.conv1(images))))
    return net.layer4(net.layer3(net.layer2(net.layer1(x))))  # type: ignore[no-any-return]


def _features_map(net: Any, images: Tensor) -> Tensor:
    return net.features(images)  # type: ignore[no-any-return]


def _resnet_pool(net: Any, x: Tensor) -> Tensor:
    return torch.flatten(net.avgpool(x), 1)


def _norm_pool(net: Any, x: Tensor) -> Tensor:
    return net.classifier(net.avgpool(x))  # type: ignore[no-any-return]


def _classifier_pool(net: Any, x: Tensor) -> Tensor:
    return net.classifier(torch.flatten(net.avgpool(x), 1))  # type: ignore[no-any-return]


def _timm_net(name: str) -> Any:
    import_torchvision()  # which timm imports too, without our help for a wheel of another build
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"timm/{name} needs timm, which is not installed: pip install 'cifar_small[pretrained]', or use torchvision/{name}"
        ) from error
    name = TIMM_NAMES.get(name, name)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        raise ConfigError(f"timm {timm.__version__} has no net {name}" + (f"; near: {', '.join(near)}" if near else ""))
    net = timm.create_model(name, pretrained=False, num_classes=0)
    _switch_off_dropout(net)
    return net


def _timm_map(net: Any, images: Tensor) -> Tensor:
    return net.forward_features(images)  # type: ignore[no-any-return]


def _timm_pool(net: Any, x: Tensor) -> Tensor:
    return net.forward_head(x, pre_logits=True)  # type: ignore[no-any-return]
