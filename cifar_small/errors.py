"""The errors a user can cause, each with the exit code the command line ends with.

A message says what was got and what was expected, without naming options of the command line. Where a parameter would mend
it, `remedy` names that parameter, with a value where one is known. The command line adds its option of that name, if any
(where another command comes first, `wording.command_line` writes it):

    raise UserError(f"{path} exists already", remedy="overwrite")                  # ...; add --overwrite to replace it
    raise UserError(f"{folder} already holds a run", remedy=("resume", "output"))  # ...; add --resume ..., or choose ...
    raise DataError(f"{path} has 360 images; expected 10,000", remedy="allow_rows=360")  # ...; if ..., add --allow-rows 360

The wording for each name is in cli/options.py (ADVICE). The command line prints one line, without a traceback. Anything else
that is raised is a defect of this package and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class UserError(ValueError):
    """Wrong usage: a value, a path or a file that already exists. Exit code 2.

    remedy: the parameters that would mend it, each NAME or NAME=VALUE, best first.
    """

    exit_code = 2

    def __init__(self, message: str, *, remedy: str | Sequence[str] = ()) -> None:
        super().__init__(message)
        self.remedy = (remedy,) if isinstance(remedy, str) else tuple(remedy)


class DiskError(UserError):
    """A full disk, or a path that cannot be written. Exit code 2."""


class ConfigError(UserError):
    """A configuration that cannot run, including a net over its parameter budget. Exit code 2."""


class DataError(UserError):
    """A data, predictions or submission file that is not what it should be. Exit code 3."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint or run directory that is damaged, in use, or belongs to something else. Exit code 4."""

    exit_code = 4


class InUseError(CheckpointError):
    """A run directory that another process holds. Exit code 4."""


class DivergedError(UserError):
    """Training produced a loss or gradient that is not finite. Exit code 5."""

    exit_code = 5


class Terminated(Exception):  # noqa: N818  (not an error: the user asked for it)
    """A signal to end arrived; the run was saved and can be resumed, or had just finished. Exit code 143."""

    exit_code = 143

    def __init__(self, message: str, finished: bool = False) -> None:
        super().__init__(message)
        self.finished = finished  # nothing is left to resume
