"""A job that needs more memory than it may have says so, and what to lower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from calls import EXPERT, RESULTS, call, errors, write_config

pytestmark = pytest.mark.fault
LIMITED = ("bash", "-c", 'ulimit -v 8000000; exec "$@"', "limited")  # kB of addresses, of which torch itself takes half


def test_a_training_without_enough_memory_says_what_to_lower(run: Path) -> None:
    def enlarge(config: dict[str, Any]) -> None:
        config["experts"]["ceiling"] |= {"batch_size": 40_000, "micro_batch": 40_000, "steps": 1}

    def lower(config: dict[str, Any]) -> None:
        config["experts"]["ceiling"] |= {"batch_size": 400, "micro_batch": 400}

    code, said = call(run, EXPERT, *write_config(run, "large.yaml", enlarge, "faults.yaml"), prefix=LIMITED)
    assert code == 1
    assert "Traceback" not in said
    assert errors(run / RESULTS / "logs/experts/ceiling.log") == [
        "There is not enough memory; set gradient_checkpointing: true, which changes no result, or lower micro_batch"
        " or method: lora, or give the job more (mem_mb)."
    ]
    assert not (run / EXPERT).exists()
    code, said = call(run, EXPERT, *write_config(run, "small.yaml", lower, "large.yaml"), prefix=LIMITED)
    assert code == 0, said
