"""The stand-in by hand: ``PYTHONPATH=tests python -m standin`` says which variables to set, and serves until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hub_standin import serve

from standin.contents import MAKERS, variables

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, default=0, help="of loopback; 0: any that is free")
with serve(MAKERS, parser.parse_args().port) as hub, suppress(KeyboardInterrupt):
    told = variables(hub, Path("$(mktemp -d)"))
    print("export", *(f'{name}="{value}"' for name, value in told.items()), flush=True)
    threading.Event().wait()
