"""``python -m logitfusion`` is the command ``logitfusion``."""

import sys

from logitfusion.cli import main

sys.exit(main())
