"""`python -m cifar_small` is `cifar-small`."""

import sys

from cifar_small.cli.main import main

sys.exit(main())
