"""What a run needs before its first step: data, net, optimizer and checkpoints, built from a resolved config."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cifar_small.config.phases import Phase
from cifar_small.config.resolved import ResolvedConfig
from cifar_small.config.schema import SGD, Adam, Config, MuonSettings, OwnModel
from cifar_small.data.datamodule import DataModule, load_datamodule
from cifar_small.data.images import SIDE
from cifar_small.environment import memory_format, prepare_process
from cifar_small.errors import ConfigError
from cifar_small.models import build_model, fit_stem, set_frozen
from cifar_small.models.counting import check_budget, check_tensors, footprint
from cifar_small.models.own import check_own
from cifar_small.optim.optimizers import build_optimizer, is_filter_bank
from cifar_small.runs.directory import Run, require_space
from cifar_small.runs.keeping import copies_kept
from cifar_small.runs.lineage import check_lineage, check_unseen, lineage_of, without_own
from cifar_small.training.averaging import ExponentialAverage, average_warnings
from cifar_small.training.batches import Batches
from cifar_small.training.checkpointing import Checkpoints
from cifar_small.training.distillation import load_teacher_targets
from cifar_small.training.distributed import SINGLE_PROCESS, World, share_batch, synchronize_batchnorm
from cifar_small.training.feature_cache import bytes_needed
from cifar_small.training.hard_images import check_shares, load_hard_images
from cifar_small.training.initial_weights import PretrainedInit, load_pretrained
from cifar_small.training.state import FIRST_SCALE, State
from cifar_small.training.teacher_cache import answer_bytes
from cifar_small.training.trainer import Trainer
from cifar_small.transforms.augmenter import Augmenter
from cifar_small.transforms.per_image import check_pipelines
from cifar_small.transforms.preprocess import Preprocess

STEM_IMAGES = 5000  # training images whose patches a whitening stem is fitted to


def build_trainer(
    resolved: ResolvedConfig,
    run: Run,
    *,
    parameters: int | None = None,
    init: PretrainedInit | None = None,
    world: World = SINGLE_PROCESS,
    stop: list[int] | None = None,
    quiet: bool = False,
    clock: float | None = None,
) -> Trainer:
    """Read the data and build the net of a run that starts from `init`, or from scratch.

    parameters: as `check_budget` counted them; None: the classes were not known before the data were read, so they are counted
    and held against the budget here. stop: fills with signals. clock: when the run began, by time.monotonic(); None: now.
    Raises ConfigError, DataError and CheckpointError for what cannot be trained.
    """
    config = resolved.config
    prepare_process(config.engine)
    data = load_datamodule(config)
    if config.read_at != SIDE:  # only now is it known whether pictures in files were left at 32x32
        check_pipelines(resolved, data.side)
    if unsafe := config.rules.unsafe_name(data.classes):  # now, and not when all is trained
        raise ConfigError(unsafe)
    if parameters is None:
        parameters = check_budget(config, len(data.classes))
    synced = config.engine.sync_batchnorm and world.size > 1
    micro_batch = share_batch(config.batch_size, config.engine.micro_batch_size, world.size, synced=synced)
    check_shares(resolved, config.batch_size // world.size, micro_batch, synced=synced)
    teacher_targets, teachers = load_teacher_targets(resolved, data, micro_batch)
    hard_images, proxies = load_hard_images(resolved, data, micro_batch)
    preprocess = Preprocess(data.mean, data.std, config.side, config.interpolation)
    model = _build_net(config, data, preprocess)
    if world.first:
        # last.pt, previous.pt and one being written, with two moments, average and slow weights; best.pt twice; what is kept.
        size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        needed = (17 + copies_kept(config.engine, resolved.epochs)) * size
        require_space(run, max(needed - run.checkpoints_size(), 5 * size))  # those of a resumed run are replaced one by one
    lines = [f"note: {note}" for note in data.val.notes]  # of all images that were read, which are split only then
    if init is not None:
        check_unseen(init.ancestors, data.facts)
        check_lineage(config.name, without_own(lineage_of(init.ancestors, []), init.ancestors, data.facts), config.rules)
        lines.append(load_pretrained(model, init, data.classes))
    lines += try_own_net(config, resolved.phases, len(data.classes), world)
    _check_phases(config, resolved.phases, model, len(data.classes))
    _check_caches(config, resolved.phases, model, data, world)
    state = State(
        model,
        build_optimizer(model, resolved.phases[0].settings.optim),
        ExponentialAverage(model, config.ema_decay, config.ema_warmup) if config.ema_decay is not None else None,
        data.precision,
        init.ancestors if init is not None else [],
        totals=torch.zeros(2, device=data.device),
        norms=torch.zeros(2, device=data.device),
        scaling=torch.tensor([FIRST_SCALE, 0.0], device=data.device),
        clock=time.monotonic() if clock is None else clock,
    )
    if synced:
        synchronize_batchnorm(model)
    checkpoints = Checkpoints(run, resolved, data, parameters, [*teachers, *proxies], world)
    augmenter = Augmenter(data, config.seed, config.engine.workers, config.interpolation)
    batches = Batches(config, data, augmenter, preprocess, teacher_targets, hard_images, micro_batch, world)
    trainer = Trainer(resolved, data, state, checkpoints, batches, world, [] if stop is None else stop, quiet)
    lines.append(
        f"{config.name}: {parameters:,} trainable parameters, {config.rules.max_params - parameters:,} below the budget of "
        f"{config.rules.max_params:,}; {len(data.images):,} training and {len(data.val):,} validation images of "
        f"{config.data.source}; {data.device}, {data.precision}"
    )
    for what, nets in (("teachers", teachers), ("proxies", proxies)):
        each = (f"{facts.run or facts.name}, {facts.parameters:,} parameters" for facts in nets)
        lines += [f"{what}: {'; '.join(each)} (not counted against the budget)"] if nets else []
    for line in lines + average_warnings(config, resolved.phases, resolved.steps(batches.steps)):
        trainer.say(line)
    return trainer


def _check_caches(config: Config, phases: Sequence[Phase], model: nn.Module, data: DataModule, world: World) -> None:
    """Raise ConfigError, now and not in its turn, for a phase whose cache is too large, or is for a single process only."""
    cached = [phase for phase in phases if phase.settings.caches]
    for phase in cached:
        if phase.settings.cached_views is not None:
            bytes_needed(model, phase, len(data.images), len(data.val), config.side)
        else:
            answer_bytes(phase, len(data.images), len(data.classes))
    if cached and world.size > 1:
        key = "cached_views" if cached[0].settings.cached_views else "distill.cached_views"
        raise ConfigError(f"phases.{cached[0].index}.{key} is for a single process, not for {world.size}; drop it")


def _build_net(config: Config, data: DataModule, preprocess: Preprocess) -> nn.Module:
    """The net on its device as the seed draws it, its stem fitted to the training images."""
    torch.manual_seed(config.seed)
    model = build_model(config.model, len(data.classes))
    check_tensors(model)
    model.to(device=data.device, memory_format=memory_format(config.engine))  # type: ignore[call-overload]
    fit_stem(model, _stem_images(data), preprocess)
    return model


def _stem_images(data: DataModule) -> Tensor:
    """The first training images, or evenly spread ones where these are not of all classes: folders are read one by one."""
    images, labels = data.images, data.labels
    if len(torch.unique(labels[:STEM_IMAGES])) == len(torch.unique(labels)):
        return images[:STEM_IMAGES]
    return images[:: -(-len(images) // STEM_IMAGES)]


def try_own_net(config: Config, phases: Sequence[Phase], num_classes: int, world: World = SINGLE_PROCESS) -> list[str]:
    """Try the net where it is the user's own; returns lines to say. Raises ConfigError where it cannot be trained."""
    model = config.model
    if not isinstance(model, OwnModel):
        return []
    optims = [phase.settings.optim for phase in phases]
    apart = [optim.backbone_lr_factor != 1 for optim in optims if isinstance(optim, SGD | Adam)]
    apart += ["backbone" in phase.settings.freeze for phase in phases]
    unused = check_own(model, num_classes, config.side, head_matters=config.weights is not None, apart=any(apart))
    if not unused:
        return []
    which = f"{unused[0]} and {len(unused) - 1} more" if len(unused) > 1 else unused[0]
    if world.size > 1:
        raise ConfigError(
            f"{model.family}: no pass depends on {which}, so that several processes could not join their gradients; remove "
            "what the net does not use"
        )
    return [f"note: no pass of {model.family} depends on {which}, which counts against the budget and never trains"]


def _check_phases(config: Config, phases: Sequence[Phase], model: nn.Module, num_classes: int) -> None:
    """Raise ConfigError now for a phase that could not train when its turn comes."""
    seen: set[int] = set()
    stepped: list[bool] = []  # does Muon have a filter to step, in each phase of its
    for phase in phases:
        set_frozen(model, phase.settings.freeze)
        if isinstance(phase.settings.optim, MuonSettings):
            stepped.append(any(parameter.requires_grad and is_filter_bank(parameter) for parameter in model.parameters()))
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(f"phases.{phase.index}.freeze freezes every parameter; leave some to train")
        side = phase.settings.resolution
        if side in seen:
            continue
        seen.add(side)
        try:
            footprint(config.model, num_classes, side)
        except RuntimeError as error:
            raise ConfigError(
                f"phases.{phase.index}.resolution {side} is too small for this net ({error}); use more pixels"
            ) from None
    set_frozen(model, ())
    if stepped and not any(stepped):
        raise ConfigError(
            "optim.name muon is for convolutions of more than 3 channels in, and none of this net trains in a phase that has "
            "it, so that optim.lr would have no effect; expected sgd, adam or adamw"
        )
