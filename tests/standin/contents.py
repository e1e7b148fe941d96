"""All repositories of the stand-in; each is made when it is first asked for."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hub_standin import TOKEN, Hub, Makers, Repository

from standin import benchmarks, encoders, models, taught  # noqa: F401  benchmarks adds to DATA_SETS
from standin.data_sets import DATA_SETS
from standin.repository import lay_out, make_repository

GATED = {"BAAI/Infinity-Instruct"}


def _make(id: str) -> Repository:
    return make_repository(id, lay_out(DATA_SETS[id]()), gated=id in GATED)


MAKERS: Makers = {
    **{("datasets", id): partial(_make, id) for id in DATA_SETS},
    **models.MAKERS,
    **encoders.MAKERS,
    **taught.MAKERS,
}


def variables(hub: Hub, home: Path) -> dict[str, str]:
    """Of the environment of a process that is to ask the stand-in, with a cache of its own."""
    asked = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    return asked | {"no_proxy": "*", "OMP_NUM_THREADS": "1"}
