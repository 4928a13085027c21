"""What a run would be, from its config alone: size against the budget, steps, work, memory on a GPU, and its phases."""

from __future__ import annotations

from cifar_small.config.resolved import resolve_config
from cifar_small.config.schema import SOURCES, Config
from cifar_small.data.datamodule import load_splits
from cifar_small.errors import ConfigError
from cifar_small.models.counting import check_budget, footprint
from cifar_small.reporting.timeline import phase_table, steps_of, training_images
from cifar_small.training.build import try_own_net
from cifar_small.training.distributed import share_batch
from cifar_small.training.initial_weights import with_input_of_weights
from cifar_small.training.standin import memory_needed

FLOP_PER_MAC = 6  # of training: two forward, four backward


def describe_run(config: Config) -> str:
    """The run that a config describes, in lines; trains nothing and writes nothing. A net of the user's own is tried.

    Reads the data only where their number of images or classes is not known without. Raises what would refuse the training:
    ConfigError for a net over the budget, UserError for a batch above the training images, CheckpointError without the weights
    that it starts from.
    """
    if config.input.size is None:
        config = with_input_of_weights(config)
    classes, resolved = config.data.num_classes, resolve_config(config)
    notes: list[str] = []
    if classes is None or SOURCES[config.data.source].train_images is None:
        train, _, _ = load_splits(config.data)
        classes, images = len(train.classes), len(train)
        notes += [f"note: {note}" for note in train.notes]
        if unsafe := config.rules.unsafe_name(train.classes):
            raise ConfigError(unsafe)
    else:
        images = training_images(config)
    parameters = check_budget(config, classes)
    notes += try_own_net(config, resolved.phases, classes)
    share_batch(config.batch_size, config.engine.micro_batch_size, 1)
    steps, budget = steps_of(config, images), config.rules.max_params
    size = footprint(config.model, classes, config.side)
    work = sum(
        FLOP_PER_MAC
        * footprint(config.model, classes, phase.settings.resolution).macs
        * sum(phase.steps_in(epoch, steps) for epoch in range(phase.start, phase.end))
        * config.batch_size
        * (2 if phase.settings.sam else 1)
        * (phase.settings.select.share if phase.settings.select else 1)
        for phase in resolved.phases
    )
    some_frozen = any(phase.settings.freeze or phase.settings.cached_views for phase in resolved.phases)
    frozen = ", as if nothing was frozen" if some_frozen else ""
    memory = memory_needed(config, classes, images) / 2**30
    length = round(resolved.epochs - 1 + config.last_epoch, 6)
    total = f"{resolved.steps(steps):,}: {length:g} epoch{'' if length == 1 else 's'} of {steps:,}"
    lines = (
        ("budget", f"{parameters:,} of {budget:,} trainable parameters, {budget - parameters:,} left"),
        ("net", f"{size.macs / 1e6:,.1f} million multiply-adds for an image of {config.side}x{config.side} pixels"),
        ("data", f"{images:,} training images and {config.data.val_size:,} of val of {config.data.source}"),
        ("steps", f"{total} with {config.batch_size:,} images each"),
        ("work", f"{work:.2g} FLOP in training ({FLOP_PER_MAC} for each multiply-add{frozen}; without teachers and proxies)"),
        ("memory", f"{memory:.2f} GiB of tensors on a GPU at the fullest moment; what CUDA needs comes on top"),
    )
    facts = "\n".join(f"{name:<8}{text}" for name, text in lines)
    said = "".join(f"{note}\n" for note in notes)
    return f"{config.name}, seed {config.seed}\n{facts}\n{said}\n{phase_table(resolved.phases, steps)}"
