"""What every stage does around its work: the log, its config, and one sentence when it fails."""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from logitfusion.config.section import parse
from logitfusion.errors import UserError, find_memory_error
from logitfusion.files import find_disk_error
from logitfusion.stages._failures import leave_word
from logitfusion.stages._memory import advise

logger = logging.getLogger("logitfusion")


def run_stage(
    main: Callable[[argparse.Namespace, Any], None], parser: argparse.ArgumentParser, section: Any = dict[str, Any]
) -> None:
    """Parse the command line, read the config, do the work, and end with one sentence if it can't be done.

    Args:
        main: the stage's work, on its arguments and its slice of the config.
        section: the class (or union of classes) of the slice.
    """
    parser.add_argument("--config", required=True, help="the stage's slice of the config (JSON)")
    arguments = parser.parse_args()
    gc.freeze()  # what was imported stays, ...
    atexit.register(gc.unfreeze)  # ... to the end: bindings print pages about objects that are left then
    gc.enable()
    _set_up_logging()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_DFL:  # a time limit unwinds as Ctrl-C does
            signal.signal(number, signal.default_int_handler)
    started = time.monotonic()
    try:
        _end_with_parent()
        main(arguments, parse(section, arguments.config))
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("Stopped by a signal; the same call again goes on, a training from its last checkpoint.")
    except Exception as error:
        full = find_disk_error(error)
        if full is not None:
            _fail(f"A file could not be read or written: {full}; nothing earlier was changed.")
        if whose := find_memory_error(error):
            _fail(advise(Path(sys.argv[0]).stem, whose))
        leave_word(traceback.format_exc().rstrip())
        raise
    logger.info("done in %.1f s, at most %.2f GB of memory", time.monotonic() - started, _peak_gigabytes())


def _fail(sentence: str) -> None:
    leave_word(sentence)
    logger.error(sentence)
    sys.exit(1)


def _end_with_parent() -> None:
    """End this process soon after Snakemake, which names itself in ``LOGITFUSION_PARENT``, has ended.

    Snakemake can be killed without stopping its jobs. What it leaves at work would otherwise write into the outputs and
    checkpoints of the next call.
    """
    parent = int(os.environ.pop("LOGITFUSION_PARENT", 0))
    if not parent:
        return
    is_worker = "LOCAL_RANK" in os.environ
    launcher = os.getppid() if is_worker else parent  # torchrun, a worker's parent, holds the lease of its GPUs

    def alive() -> bool:
        return os.getppid() == launcher and (not is_worker or _exists(parent))

    if not alive():
        raise KeyboardInterrupt

    def watch() -> None:
        while alive():
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _set_up_logging() -> None:
    """Our own lines, and nothing below an error from anybody else."""
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO if int(os.environ.get("RANK", 0)) == 0 else logging.WARNING)  # one process tells
    for name, other in logging.root.manager.loggerDict.items():  # with a level of its own, root's is not heeded
        if isinstance(other, logging.Logger) and other.level and name.partition(".")[0] != logger.name:
            other.setLevel(max(other.level, logging.ERROR))
    warnings.simplefilter("ignore")


def _peak_gigabytes() -> float:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
