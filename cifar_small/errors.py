"""The errors a user can cause, each with the exit code the command line ends with.

A message says what was got, what was expected, and what to do; the command line prints it as one line, without a traceback.
Anything else that is raised is a defect of this package and keeps its traceback.
"""

from __future__ import annotations


class UserError(ValueError):
    """Wrong usage: a flag, a path or a file that already exists. Exit code 2."""

    exit_code = 2


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
    """SIGINT or SIGTERM arrived; the run was saved and can be resumed. Exit code 143."""

    exit_code = 143
