"""How every command line of the package ends: an exit code, and one line on stderr for what the user can mend."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from cifar_small.errors import Terminated, UserError


def exit_code(program: str, action: Callable[[], int]) -> int:
    """Run `action` and return its exit code, or that of the error it ended with."""
    try:
        return action()
    except UserError as error:
        print(f"{program}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a path that no module foresaw, such as a name that is too long
        print(f"{program}: error: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        return 2
    except Terminated as stopped:
        print(f"{program}: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 143
