"""A config with what follows from it: phases with every setting in force, and the hashes that identify run and recipe."""

from __future__ import annotations

from dataclasses import dataclass

from cifar_small.config.hashing import config_hash, recipe_hash
from cifar_small.config.phases import Phase, resolve_phases
from cifar_small.config.schema import Config


@dataclass(frozen=True)
class ResolvedConfig:
    """A config that has been resolved once; pass it on instead of resolving the config again."""

    config: Config
    phases: tuple[Phase, ...]
    config_sha256: str
    recipe_sha256: str

    @property
    def epochs(self) -> int:
        """Epochs of all phases together, with one that is not trained to its end."""
        return self.phases[-1].end

    def steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        last = self.phases[-1]
        return (last.end - 1) * steps_per_epoch + last.steps_in(last.end - 1, steps_per_epoch)

    def phase_at(self, epoch: int) -> Phase:
        """The phase in force during an epoch (0-based)."""
        return next(phase for phase in self.phases if phase.start <= epoch < phase.end)


def resolve_config(config: Config) -> ResolvedConfig:
    """Resolve the phases of a config and hash it. Raises ConfigError with all problems of its phases."""
    return ResolvedConfig(config, resolve_phases(config), config_hash(config), recipe_hash(config))
