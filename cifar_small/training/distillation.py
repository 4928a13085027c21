"""Distillation: the targets that teachers give for the images of a phase, and the loss that uses them beside the labels.

A phase with teachers trains on targets (B, 2K): the labels' shares of K classes, then the teachers' K probabilities at the
temperature. A teacher that is a run predicts, in every step, the very pixels its student is about to see, augmented and mixed,
at the images' full resolution; an ONNX file in the run's directory may compute in place of its weights. A predictions file
holds one prediction per image, not augmented; it is mixed as labels are. With `cached_views` runs predict so many views of each
image once, mixed where the phase mixes (`teacher_cache.py`), and every epoch shows one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_small.config.resolved import ResolvedConfig
from cifar_small.config.schema import Distill, Engine, Rules
from cifar_small.data.datamodule import DataModule
from cifar_small.environment import autocast, memory_format
from cifar_small.errors import CheckpointError, ConfigError
from cifar_small.inference.onnx_session import OVERFLOW, load_onnx, may_overflow
from cifar_small.inference.predict import Net, load_net
from cifar_small.runs.directory import Run
from cifar_small.runs.lineage import check_unseen, fault_of, foreign_lineage, through_teacher
from cifar_small.runs.predictions import Predictions, load_predictions
from cifar_small.runs.records import DataFacts, TeacherFacts
from cifar_small.transforms.preprocess import Preprocess
from cifar_small.wording import differing_classes


def distilled_loss(logits: Tensor, targets: Tensor, settings: Distill, label_smoothing: float) -> Tensor:
    """(1 - w) cross-entropy + w T^2 KL(teachers || net), summed over images; logits (B, K), targets (B, 2K).

    The teachers' probabilities are at the temperature T already; the net's logits are divided by it here. T^2 keeps the size of
    the gradient as T grows (Hinton et al. 2015, arXiv 1503.02531).
    """
    labels, taught = targets.chunk(2, dim=1)
    weight, temperature = settings.kd_weight, settings.temperature
    hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="sum")
    soft = F.kl_div(F.log_softmax(logits / temperature, dim=1), taught, reduction="sum")
    return (1 - weight) * hard + weight * temperature**2 * soft


@dataclass(frozen=True)
class Teacher:
    """A trained net in evaluation, without gradients, which is given pixels as it was trained on them."""

    model: nn.Module
    preprocess: Preprocess
    scale: Tensor  # (1, 3, 1, 1): from the student's normalized pixels to the teacher's
    offset: Tensor
    sha256: str  # of its weights, or of the ONNX file that computes in their place

    def __call__(self, pixels: Tensor) -> Tensor:
        """Logits (B, K) float32 of the student's pixels (B, 3, H, H)."""
        logits: Tensor = self.model(self.preprocess.enlarge(pixels * self.scale + self.offset))
        return logits.float()


class TeacherTargets:
    """The targets that the teachers of one phase give."""

    def __init__(
        self, settings: Distill, teachers: Sequence[Teacher], stored: Sequence[Tensor], slices: int, engine: Engine
    ) -> None:
        """Nets to run, `slices` images at a time, or `stored` probabilities (N, K) of all training images at T, one each view.

        A file is a single view; of nets whose answers are cached, nothing is stored yet.
        """
        self.settings, self.teachers, self.stored, self.slices = settings, teachers, stored, slices
        self.layout = memory_format(engine)

    @property
    def to_be_filled(self) -> bool:
        """Do the nets' answers to the phase's views have to be computed before its steps?"""
        return self.settings.cached_views is not None and not self.stored

    def of_images(self, targets: Tensor, chosen: Tensor) -> Tensor:
        """Before mixing: the targets (B, K) of images of the dataset, int64 (B,), with the probabilities that a file has."""
        return targets if self.settings.predictions is None else torch.cat((targets, self.stored[0][chosen]), dim=1)

    def of_pixels(self, targets: Tensor, pixels: Tensor, chosen: Tensor, epoch: int, precision: str) -> Tensor:
        """After mixing: the targets with the nets' probabilities of the pixels (B, 3, H, H), in the student's precision.

        chosen: int64 (B,), whose pixels they are, or of whose mixed with others'; epoch: counted from the phase's start. By
        both, answers that are stored are found.
        """
        if self.settings.predictions is not None:
            return targets
        answers = self.stored[epoch % len(self.stored)][chosen] if self.stored else self.answers(pixels, precision)
        return torch.cat((targets, answers), dim=1)

    @torch.no_grad()
    def answers(self, pixels: Tensor, precision: str) -> Tensor:
        """The mean of the nets' probabilities (B, K) at T, of pixels (B, 3, H, H)."""
        parts = []
        for part in torch.split(pixels.contiguous(memory_format=self.layout), self.slices):
            with autocast(pixels.device, precision):
                logits = [teacher(part) for teacher in self.teachers]
            parts.append(torch.stack([F.softmax(each / self.settings.temperature, dim=1) for each in logits]).mean(0))
        return torch.cat(parts)


def load_teacher_targets(
    resolved: ResolvedConfig, data: DataModule, slices: int
) -> tuple[dict[int, TeacherTargets], list[TeacherFacts]]:
    """The targets of every phase that has teachers, by its index, and the facts of all teachers, for the record.

    Raises ConfigError for teachers of other classes, that have trained on our val images, or that the rules forbid, and what
    `load_net` and `load_predictions` raise.
    """
    teacher_targets: dict[int, TeacherTargets] = {}
    nets: dict[str, tuple[Teacher, TeacherFacts]] = {}
    files: dict[str, tuple[Predictions, TeacherFacts]] = {}
    engine, rules = resolved.config.engine, resolved.config.rules
    for phase in resolved.phases:
        settings = phase.settings.distill
        if settings is None:
            continue
        where = f"phases.{phase.index}.distill"
        for path in settings.teachers:
            if path not in nets:
                nets[path] = load_teacher(path, engine, rules, data, where)
            check_size(path, nets[path][0], resolved.config.augmented_at(phase.settings.resolution, data.side), where)
        stored = []
        if settings.predictions is not None:
            if settings.predictions not in files:
                files[settings.predictions] = _load_file(settings.predictions, rules, data, where)
            stored = [_probabilities(files[settings.predictions][0], data, settings.temperature)]
        chosen = [nets[path] for path in settings.teachers]
        hashes = [facts.weights_sha256[0] for _, facts in chosen]
        if len(set(hashes)) < len(hashes):
            raise ConfigError(f"{where}.teachers {list(settings.teachers)}: two have the same weights; leave one out")
        teacher_targets[phase.index] = TeacherTargets(settings, [teacher for teacher, _ in chosen], stored, slices, engine)
    return teacher_targets, [facts for _, facts in [*nets.values(), *files.values()]]


def load_teacher(path: str, engine: Engine, rules: Rules, data: DataModule, where: str) -> tuple[Teacher, TeacherFacts]:
    """The selected weights of a finished run, for evaluation, and their facts; `where` names the setting in messages.

    path: of the run, or of an ONNX file in it, which then computes in place of the weights, on the CPU. Raises ConfigError for
    a net of other classes, that has trained on our val images, that the rules forbid, or whose int8 file this processor may
    compute wrongly, and CheckpointError for a run that has not finished or a file of other weights.
    """
    file = Path(path) if path.endswith(".onnx") else None
    if file is not None and data.device.type != "cpu":
        raise ConfigError(
            f"{where}: {path} computes on the CPU and this run on {data.device}; give the run, {file.parent}, or go on where "
            "engine.device is cpu"
        )
    run = Run(path if file is None else file.parent)
    net = load_net(run) if file is None else load_onnx(run, file, threads=engine.threads or torch.get_num_threads())
    if net.onnx is not None and may_overflow(net.onnx.quantization):
        raise ConfigError(
            f"{where}: {path} {OVERFLOW}, so its answers may be wrong here; give the run, {run.folder}, or a file of "
            "weights of 7 bits, as cifar-small quantize makes here, or go on with a processor that has VNNI"
        )
    if run.summary() is None:
        raise CheckpointError(f"{where}: {path} has not finished (no summary.json), so its weights may change; train it first")
    lineage = foreign_lineage(net.facts)
    _check(path, net.classes, net.facts.data, lineage, rules, data, where)
    check_unseen(net.facts.ancestors, data.facts)
    model = net.model.to(device=data.device, memory_format=memory_format(engine))  # type: ignore[call-overload]
    model.eval().requires_grad_(False)
    facts = TeacherFacts(
        name=net.config.name,
        seed=net.config.seed,
        run=run.name,
        parameters=net.parameters,
        val_accuracy=net.facts.val_accuracy,
        weights_sha256=[net.facts.weights_sha256],
        pretrained=bool(lineage),
        lineage=lineage,
    )
    if net.onnx is not None:
        facts = facts.updated(file=net.onnx.file, sha256=net.onnx.sha256)
    return Teacher(model, net.preprocess, *_renormalization(net, data), str(facts.hashes[0])), facts


def check_size(path: str, teacher: Teacher, side: int, where: str) -> None:
    """Raise ConfigError for an ONNX file that would be given images of more pixels a side than it takes, and so see less."""
    if path.endswith(".onnx") and side > teacher.preprocess.side:
        taken = teacher.preprocess.side
        raise ConfigError(
            f"{where}: {path} takes images of {taken}x{taken}, and this phase augments them at {side}x{side}; give the run, "
            f"{Path(path).parent}, or set input.augment to before"
        )


def _renormalization(net: Net, data: DataModule) -> tuple[Tensor, Tensor]:
    """Scale and offset (1, 3, 1, 1) from pixels in the data's normalization to the net's; 1 and 0 where they agree."""
    mean, std, own_mean, own_std = (np.array(values) for values in (data.mean, data.std, net.mean, net.std))
    parts = (std / own_std, (mean - own_mean) / own_std)  # in float64: equal statistics give exactly 1 and 0
    scale, offset = (torch.tensor(part, dtype=torch.float32, device=data.device).view(1, -1, 1, 1) for part in parts)
    return scale, offset


def _load_file(path: str, rules: Rules, data: DataModule, where: str) -> tuple[Predictions, TeacherFacts]:
    """Predictions over (at least) the training images, in any order."""
    predictions = load_predictions(path)
    meta = predictions.meta
    for net in meta.nets():
        _check(path, predictions.classes, net.data, foreign_lineage(net), rules, data, where)
        check_unseen(net.ancestors, data.facts)
    facts = TeacherFacts(
        name=meta.label(),
        file=Path(path).name,
        sha256=meta.sha256,
        parameters=meta.parameters,
        views=meta.views,
        weights_sha256=[net.weights_sha256 for net in meta.nets()],
        pretrained=bool(foreign_lineage(meta)),
        lineage=foreign_lineage(meta),
    )
    return predictions, facts


def _probabilities(predictions: Predictions, data: DataModule, temperature: float) -> Tensor:
    """A file's probabilities of the training images (N, K) at the temperature, joined by id."""
    name, ordered = predictions.meta.file, predictions.at(data.ids)
    if ordered is None:
        missing = data.ids[~np.isin(data.ids, predictions.ids)]
        raise ConfigError(
            f"distill.predictions {name} lacks {len(missing):,} of the {len(data.ids):,} training images, first "
            f"ids {missing[:5].tolist()}; expected predictions of the whole training split"
        )
    labels = data.labels.cpu().numpy()
    if ordered.labels is None or not np.array_equal(ordered.labels, labels):
        raise ConfigError(
            f"distill.predictions {name} has other labels than the training images, so its ids belong to other images; "
            "expected predictions of the training split of this config"
        )
    logits = torch.from_numpy(ordered.logits).to(data.device)
    return F.softmax(logits / temperature, dim=1)


def _check(
    path: str,
    classes: tuple[str, ...],
    trained_on: DataFacts | None,
    lineage: list[str],
    rules: Rules,
    data: DataModule,
    where: str,
) -> None:
    """Raise ConfigError for a teacher that may not or cannot teach this run."""
    if classes != data.classes:
        raise ConfigError(
            f"{where}: {path} and this data have {differing_classes(classes, data.classes)}; the same names in the same order "
            "are needed"
        )
    ours = data.facts
    if trained_on is not None and trained_on.sha256 == ours.sha256 and trained_on.val_sha256 != ours.val_sha256:
        raise ConfigError(
            f"{where}: {path} held out other images than this config, so it may have been trained on some of this run's val "
            "images and would leak their labels; use its data.val_size and data.split_seed, or another teacher"
        )
    inherited = [through_teacher(one, path) for one in lineage]
    if fault_of(inherited, rules) is not None:
        raise ConfigError(
            f"{where}: {path} was initialized from other weights ({'; '.join(lineage)}), which the student would learn from; "
            "the rules say pretrained_teacher: forbidden: take a teacher trained from scratch, or set "
            "rules.pretrained_teacher: allowed where the competition allows it"
        )


def check_same_teachers(saved: Sequence[TeacherFacts], now: Sequence[TeacherFacts], folder: Path) -> None:
    """Raise CheckpointError when a run would continue with other teachers than it was started with."""
    before, after = ([facts.hashes for facts in teachers] for teachers in (saved, now))
    if before != after:
        raise CheckpointError(
            f"{folder} was started with other teachers: {_names(saved)} then, {_names(now)} now; put the former teachers "
            "back, or train into another run directory",
            remedy="output",
        )


def _names(teachers: Sequence[TeacherFacts]) -> str:
    parts = (f"{facts.label()} {str(facts.hashes[0])[:12]}" for facts in teachers)
    return ", ".join(parts) or "none"
