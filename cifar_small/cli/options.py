"""What commands share: options that several take, and the advice that an error's remedy becomes."""

from __future__ import annotations

import argparse

from cifar_small.errors import UserError

# By the name of the option, as in the remedy of a UserError; what is missing here reads "use --name".
ADVICE = {
    "overwrite": "add --overwrite to replace it",
    "output": "choose another --output",
    "resume": "add --resume to continue it",
    "data_root": "name the folder of the data with --data-root",
    "device": "use another --device",
    "allow_rows": "if the file is right, add --allow-rows",
    "retry_failed": "add --retry-failed to continue it",
}


def message_of(error: UserError, options: argparse.Namespace | None) -> str:
    """The error on one line, with advice for each parameter of its remedy that is an option of this command."""
    advice = []
    for remedy in error.remedy:
        name, _, value = remedy.partition("=")
        if options is not None and hasattr(options, name):
            text = ADVICE.get(name, f"use --{name.replace('_', '-')}")
            advice.append(f"{text} {value}".rstrip())
    message = " ".join(str(error).split())
    return f"{message}; {', or '.join(advice)}" if advice else message
