"""A run: everything together, and how it is computed."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, assert_never

from pydantic import Field, model_validator

from cifar_small.config.published import PUBLISHED
from cifar_small.config.schema.base import PositiveInt, Section, Seed
from cifar_small.config.schema.data import Data, Input, Rules, Views
from cifar_small.config.schema.model import LibraryModel, Model
from cifar_small.config.schema.patterns import DEVICE, NAME
from cifar_small.config.schema.phase import Recipe


class Engine(Section):
    """How the run is computed.

    Precision, layout, micro_batch_size and sync_batchnorm are part of the recipe. The rest changes last bits only; so does the
    number of processes where sync_batchnorm is on, without micro_batch_size (which is of each process) and without dropout,
    stochastic depth, `select` or augmentation of one's own, which each process draws or chooses for itself. With dropout or
    stochastic depth, another kind of device and `compile` draw other masks.
    """

    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    """Where to compute: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the passes; auto: bf16 where the hardware has it, fp16 on GPUs that have that alone, else fp32."""
    layout: Literal["channels_last", "contiguous"] = "channels_last"
    """Memory order of images and filters."""
    compile: bool | Literal["reduce-overhead", "max-autotune"] = False
    """torch.compile of the training pass, or its mode; reduce-overhead: with CUDA graphs, without micro_batch_size.

    No gain for the net tried on a CPU (docs/speed.md).
    """
    deterministic: bool = False
    """Only algorithms that give the same bits each time, where torch has them? Slower, on a GPU; a CPU's do anyway."""
    threads: PositiveInt | None = None
    """CPU threads of each process; null: torch's default, or a share of the cores."""
    micro_batch_size: Annotated[int, Field(ge=2)] | None = None
    """Images per pass; gradients are accumulated over the equal slices of a batch; null: the whole batch at once."""
    eval_batch_size: PositiveInt = 500
    """Images per pass in evaluation."""
    sync_batchnorm: bool = False
    """Share BatchNorm's statistics among several processes?"""
    checkpoint_steps: PositiveInt | None = None
    """Also save within an epoch, every so many steps; null: after each epoch alone."""
    keep_every: PositiveInt | None = None
    """Keep the weights of every so many epochs beside best.pt, as epoch-0010.pt, ...; null: none."""
    keep_last: PositiveInt | None = None
    """Keep the weights of this many last epochs; older ones are removed; null: none."""
    keep_final: bool = False
    """Keep the weights of the end of the run, as final.pt? Not with selection: last, where they are best.pt."""
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that augment image by image; 0: the run's own; pixels are the same. Only where an engine does."""
    track: Literal["none", "tensorboard"] = "none"
    """Also log each epoch, the settings and the final scores for TensorBoard, in the run's folder `tensorboard`."""

    OMIT_DEFAULT = frozenset({"track", "workers", "deterministic", "sync_batchnorm", "keep_every", "keep_last", "keep_final"})


Selection = Literal["best", "last"]
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin")


class Config(Recipe):
    """A run; README and configs/ show complete examples."""

    name: Annotated[str, Field(pattern=NAME)]
    """Name of the recipe; the run directory is called after it."""
    seed: Seed = 0
    """Seed of all random draws but the choice of val."""
    rules: Rules = Rules()
    """What the competition allows."""
    data: Data = Data()
    """Which images, and which of them are val."""
    model: Model
    """The net."""
    weights: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    """Where the run starts from: imagenet (as published), a file (.safetensors .pth .pt .bin) or a run; null: from scratch.

    The classifier starts anew, but for a run on the same classes. What is not from scratch on the same images
    needs rules.pretrained: true.
    """
    input: Input = Input()
    """What the net is given: size and normalization of images."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images per step; at least 2, because BatchNorm has no statistics of one."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which is then evaluated and saved; null: no average."""
    ema_warmup: bool = False
    """Let the decay grow up to ema_decay, so that a short run's average forgets its first weights."""
    phases: Annotated[tuple[dict[str, Any], ...], Field(strict=False, min_length=1)]
    """What the run consists of: each phase has epochs, and settings that differ from the phase before."""
    selection: Selection = "best"
    """Which epoch's weights count: the best on val, or the last."""
    patience: PositiveInt | None = None
    """Early stopping: after this many epochs of the last phase without a better accuracy on val; null: never.

    With swa, epochs that take no weights into the average do not count.
    """
    views: Views = "none"
    """Views of an image that predictions average; {set: flip_shift, share: 0.25}: for the least certain share of images."""
    engine: Engine = Engine()
    """How the run is computed."""

    OMIT_DEFAULT = Recipe.OMIT_DEFAULT | {"weights", "input", "ema_warmup"}

    @property
    def side(self) -> int:
        """Pixels per side of the images that the net is evaluated on."""
        return self.input.size or 32

    @property
    def interpolation(self) -> str:
        """How images are resized."""
        return self.input.interpolation or "bilinear"

    @property
    def starts_from_run(self) -> bool:
        """Are the weights those of another run of this toolkit?"""
        return self.weights not in (None, "imagenet") and not str(self.weights).endswith(WEIGHT_FILES)

    @property
    def epochs(self) -> int:
        """Epochs of all phases together, with one that is not trained to its end."""
        return sum(math.ceil(phase["epochs"]) for phase in self.phases)

    @property
    def last_epoch(self) -> float:
        """The share of the last epoch that is trained: 1, or of 7.6 epochs 0.6."""
        return float(self.phases[-1]["epochs"]) % 1 or 1.0

    @property
    def read_at(self) -> int:
        """Pixels per side that pictures in files are brought to as they are read; where all are 32x32, they are left so."""
        return self.side if self.data.source == "folder" else 32

    def augmented_at(self, resolution: int, stored: int) -> int:
        """Pixels per side that training images, which are read at `stored`, are augmented at in a phase of a `resolution`."""
        match self.input.augment:
            case "after":
                return resolution
            case "before":
                return stored
            case unknown:
                assert_never(unknown)

    @model_validator(mode="after")
    def _slices_are_equal(self) -> Config:
        size = self.engine.micro_batch_size
        if size is not None and self.batch_size % size:
            raise ValueError(
                f"engine.micro_batch_size {size} does not divide batch_size {self.batch_size}: BatchNorm would see slices of "
                "different sizes; use a divisor"
            )
        return self

    @model_validator(mode="after")
    def _graphs_do_not_accumulate(self) -> Config:
        engine = self.engine
        if isinstance(engine.compile, str) and engine.micro_batch_size not in (None, self.batch_size):
            raise ValueError(
                f"engine.compile {engine.compile} uses CUDA graphs, in which torch cannot accumulate the gradients of "
                f"engine.micro_batch_size {engine.micro_batch_size}: use compile: true, or drop micro_batch_size"
            )
        return self

    @model_validator(mode="after")
    def _warmup_is_of_an_average(self) -> Config:
        if self.ema_warmup and self.ema_decay is None:
            raise ValueError("ema_warmup has no effect without an average over steps: set ema_decay, or drop ema_warmup")
        return self

    @model_validator(mode="after")
    def _final_is_another(self) -> Config:
        if self.engine.keep_final and self.selection == "last":
            raise ValueError("engine.keep_final has no effect with selection: last, which makes best.pt the end: drop it")
        return self

    @model_validator(mode="after")
    def _weights_are_allowed(self) -> Config:
        if self.weights is None:
            return self
        if not (self.rules.pretrained or self.starts_from_run):  # a run may be from scratch on the very images of this one
            raise ValueError(
                f"weights {self.weights} are refused by rules.pretrained: false; train from scratch (weights: null), take a "
                "run on the same training images, or set rules.pretrained: true where the competition allows it"
            )
        if self.weights != "imagenet":
            return self
        if not isinstance(self.model, LibraryModel):
            raise ValueError(
                f"weights imagenet are published for the nets of torchvision and timm, not for {self.model.family}; choose a "
                "family such as torchvision/resnet18, or name a file or a run"
            )
        if self.model.family not in PUBLISHED:
            raise ValueError(
                f"weights imagenet are known here for {', '.join(PUBLISHED)}, not for {self.model.family}; name a file of its "
                "weights (.safetensors, .pth) instead"
            )
        if self.model.stem == "cifar":
            raise ValueError(
                "weights imagenet belong to a 7x7 stem, which model.stem cifar replaces by 3x3; use stem: imagenet and a "
                "larger input.size, or weights of a run with that stem"
            )
        return self
