"""``python -m labkit``: the lab's commands."""

import sys

from labkit.cli import main

sys.exit(main())
