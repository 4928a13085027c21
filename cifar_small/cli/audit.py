"""The command that checks a submission from end to end: audit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cifar_small.cli.command import Command


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("csv", type=Path, metavar="CSV", help="a submission with the record that submit wrote beside it")
    parser.add_argument(
        "--run", type=Path, nargs="+", action="extend", default=[], metavar="RUN", help="run directories, one a net"
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="its predictions file (default: in the run of one net)"
    )
    parser.add_argument("--file", type=Path, help="the unlabelled file the CSV answers")
    parser.add_argument(
        "--layout", choices=["auto", "HWC", "CHW"], default="auto", help="pixel order of flat rows (default: by content)"
    )
    parser.add_argument("--data-root", metavar="PLACE", help="where the data of the runs lie now (default: the config's)")
    parser.add_argument("--config", type=Path, help="config whose rules hold (default: the rules in the record)")
    parser.add_argument("--repredict", action="store_true", help="predict the file again with the weights; takes minutes")
    parser.add_argument("--json", action="store_true", help="print the card as JSON")


def _audit(options: argparse.Namespace) -> int:
    from cifar_small.submission.audit import audit, gather

    submission = gather(
        options.csv,
        runs=options.run,
        predictions=options.predictions,
        file=options.file,
        layout=options.layout,
        data_root=options.data_root,
        config=options.config,
    )
    card = audit(submission, repredict=options.repredict)
    print(json.dumps(card.to_dict(), indent=2, ensure_ascii=False) if options.json else card)
    return 1 if card.of("fail") else 0


COMMANDS = (
    Command(
        "audit",
        "re-derive a submission from its record, predictions, runs and data: a card of what holds and what does not",
        _audit_arguments,
        _audit,
        detail="""\
Each line is a link: pass, FAIL (exit code 1), or not checked, with the reason. It finds mistakes and careless tampering,
not somebody who rewrites every file and hash to agree; --repredict and training again narrow that down.
  cifar-small audit submissions/mine/submission.csv --run runs/mine-seed0 --file cifar_test_nolabel.pkl""",
    ),
)
