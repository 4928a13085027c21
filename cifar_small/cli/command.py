"""What a command is, and how it ends: an exit code, and one line on stderr for what the user can mend."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from cifar_small.cli.options import ADVICE, message_of
from cifar_small.errors import Terminated, UserError


@dataclass(frozen=True)
class Command:
    """One command: its name, its arguments, and what it does.

    `run` gets the parsed options, with `command` (the whole command line), `call` (which runs another one) and `overrides`
    (settings of the config by dotted names, where `overrides` allows them), and returns the exit code. Its docstring is
    the help. It imports heavy modules itself, so that --help is quick.
    """

    name: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    overrides: bool = False

    @property
    def detail(self) -> str:
        """The help of the command."""
        return inspect.getdoc(self.run) or ""

    @property
    def summary(self) -> str:
        """The first sentence of the help, as a list of commands shows it."""
        line = self.detail.partition("\n")[0].rstrip(".")
        return line if line.startswith("Monte") else line[:1].lower() + line[1:]


def exit_code(program: str, action: Callable[[], int], options: argparse.Namespace | None = None) -> int:
    """Run `action` and return its exit code, or that of the error it ended with.

    What the user can mend is one line on stderr; `options` are those of the command, which its advice may name.
    """
    try:
        return action()
    except UserError as error:
        print(f"{program}: error: {message_of(error, options)}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a path that no module foresaw, such as a name that is too long
        print(f"{program}: error: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        return 2
    except Terminated as stopped:
        advice = f"; {ADVICE['resume']}" if hasattr(options, "resume") and not stopped.finished else ""
        print(f"{program}: {stopped}{advice}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 143
