"""Optimizers, and what wraps them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cifar_small.config.schema.base import LrFactor, Section


class SGD(Section):
    """SGD with momentum."""

    name: Literal["sgd"] = "sgd"
    """Stochastic gradient descent."""
    lr: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Learning rate, which the schedule scales."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum coefficient: the share of the last update that the next one keeps."""
    nesterov: bool = True
    """Use Nesterov momentum; needs momentum above 0."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    """L2 penalty: the weights, times this, are added to the gradient."""
    decay: Literal["weights", "all"] = "weights"
    """What decays: weights, which leaves out 1-d parameters (biases and BatchNorm), or all."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradient clipping: a gradient of a larger norm, over all parameters, is scaled down to this; null: off."""
    backbone_lr_factor: LrFactor = 1.0
    """Learning rate of all but the classifier, relative to lr."""

    OMIT_DEFAULT = frozenset({"backbone_lr_factor"})

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> SGD:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0: set momentum, or nesterov: false")
        return self


class Adam(Section):
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) or RAdam (Liu et al. 2020), as torch computes them."""

    name: Literal["adam", "adamw", "radam"]
    """Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) or RAdam (Liu et al. 2020)."""
    lr: Annotated[float, Field(gt=0, le=100)] = 1e-3
    """Learning rate, which the schedule scales."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the running mean of the gradient."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the running mean of its square."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator, for numerical stability."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight decay: added to the gradient; decoupled from it with adamw."""
    decay: Literal["weights", "all"] = "weights"
    """What decays: weights, which leaves out 1-d parameters (biases and BatchNorm), or all."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradient clipping: a gradient of a larger norm, over all parameters, is scaled down to this; null: off."""
    backbone_lr_factor: LrFactor = 1.0
    """Learning rate of all but the classifier, relative to lr."""

    OMIT_DEFAULT = frozenset({"backbone_lr_factor"})


class SGDGroup(Section):
    """SGD with Nesterov momentum for one group of parameters beside Muon."""

    name: Literal["sgd"] = "sgd"
    """SGD with Nesterov momentum; the default."""
    lr: Annotated[float, Field(gt=0, le=10_000)] = 0.1
    """Learning rate of the group, which the schedule scales like that of the filters."""
    momentum: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """Momentum coefficient: the share of the last update that the next one keeps."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """L2 penalty: the weights, times this, are added to the gradient."""

    OMIT_DEFAULT = frozenset({"name"})


class HeadGroup(SGDGroup):
    """The same with weight decay."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    """L2 penalty: the weights, times this, are added to the gradient."""


class AdamWGroup(Section):
    """AdamW for one group of parameters beside Muon."""

    name: Literal["adamw"]
    """AdamW."""
    lr: Annotated[float, Field(gt=0, le=100)] = 1e-3
    """Learning rate of the group, which the schedule scales like that of the filters."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the running mean of the gradient."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the running mean of its square."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator, for numerical stability."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight decay, decoupled from the gradient."""


def _sgd_by_default(value: Any) -> Any:
    return {"name": "sgd", **value} if isinstance(value, dict) else value


class MuonSettings(Section):
    """Muon for convolution filters: momentum, orthogonalized; SGD or AdamW for the rest (Jordan 2024)."""

    name: Literal["muon"]
    """Muon (Jordan 2024) for convolution filters, SGD or AdamW for the rest."""
    lr: Annotated[float, Field(gt=0, le=100)] = 0.24
    """Learning rate of the filters; a schedule scales all groups alike."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.6
    """Momentum coefficient of the filters: the share of the last update that the next one keeps."""
    nesterov: bool = True
    """Use Nesterov momentum; needs momentum above 0."""
    iterations: Annotated[int, Field(ge=1, le=20)] = 3
    """Newton-Schulz steps towards the nearest orthogonal matrix."""
    normalize: bool = True
    """Keep each filter bank at norm sqrt(channels out), so that lr is a relative step?"""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Decoupled weight decay of the filters; only without `normalize`."""
    bias: Annotated[SGDGroup | AdamWGroup, Field(discriminator="name"), BeforeValidator(_sgd_by_default)] = SGDGroup()
    """The optimizer of 1-d parameters: biases and BatchNorm."""
    head: Annotated[HeadGroup | AdamWGroup, Field(discriminator="name"), BeforeValidator(_sgd_by_default)] = HeadGroup()
    """The optimizer of the classifier and other matrices, and of filters of up to 3 channels: the first, and depthwise."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradient clipping: a gradient of a larger norm, over all parameters, is scaled down to this; null: off."""

    @model_validator(mode="after")
    def _values_have_effect(self) -> MuonSettings:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0: set momentum, or nesterov: false")
        if self.normalize and self.weight_decay:
            raise ValueError("weight_decay has no effect on filters of fixed norm: drop it, or set normalize: false")
        return self


Optim = Annotated[SGD | Adam | MuonSettings, Field(discriminator="name"), BeforeValidator(_sgd_by_default)]


class Lookahead(Section):
    """Slow weights that follow the optimizer's every few steps (Zhang et al. 2019, arXiv 1907.08610)."""

    steps: Annotated[int, Field(ge=2)] = 5
    """Steps of the optimizer between those of the slow weights, which also move at the end of each epoch."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the way from the slow to the fast weights."""


class SAM(Section):
    """Sharpness-aware minimization: the gradient is taken where the loss near the weights is highest; a step costs two."""

    rho: Annotated[float, Field(gt=0)] = 0.05
    """Radius of the neighborhood whose highest loss is minimized (Foret et al. 2021, arXiv 2010.01412)."""
    adaptive: bool = False
    """ASAM: relative to each weight's size (Kwon et al. 2021, arXiv 2102.11600); rho is then about 2."""
