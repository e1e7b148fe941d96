"""torchrun for a stage that trains in several processes: it leases their GPUs, and says why they failed."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

# Of torch's C++, no lines about how a training could be faster.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, main

from logitfusion.stages._failures import FAILURES, first_failure


def launch() -> None:
    """Run torchrun, and end with the first failure of its processes."""
    count = int(get_args_parser().parse_known_args()[0].nproc_per_node)
    # The job's cores are for all of its processes; torchrun would give each of them all.
    os.environ["OMP_NUM_THREADS"] = str(max(1, int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1) // count))
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FAILURES] = folder
        logging.disable()  # torch's page about a failed process
        try:
            main()
        except ChildFailedError as error:
            _end(_killed(error, count) or first_failure(Path(folder)) or "A process ended without a word.")
        except (SignalException, KeyboardInterrupt):
            _end(first_failure(Path(folder)) or "Stopped by a signal.")


def _killed(error: ChildFailedError, count: int) -> str | None:
    """A sentence about a process that a signal has ended, as the kernel does where memory is used up."""
    others = (signal.SIGTERM, signal.SIGINT)  # from torchrun itself, once another has failed
    for rank, failure in error.failures.items():
        if failure.exitcode < 0 and -failure.exitcode not in others:
            return (
                f"Process {rank} of {count} (from 0) was ended by {failure.signal_name()}, perhaps because memory was"
                " used up: give the job more (mem_mb); the same call again goes on from the last checkpoint."
            )
    return None


def _end(sentence: str) -> None:
    logging.disable(logging.NOTSET)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("logitfusion").error(sentence)
    sys.exit(1)


if __name__ == "__main__":  # importing the package has leased the GPUs, which its processes inherit
    launch()
