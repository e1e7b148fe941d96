"""Every config of ``config/paper`` from its downloads to its report, on the stand-in of the hub (make paper-test)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from checkout import copy_checkout, snakemake
from hub_standin import Hub, serve
from small_papers import NAMES, ONE_CARD, read, write_small
from standin.contents import MAKERS, variables
from standin.encoders import write_moco
from standin.images import write_images

pytestmark = pytest.mark.paper


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serve(MAKERS) as hub:
        yield hub


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the files that the configs say must be there before."""
    folder = copy_checkout(tmp_path_factory.mktemp("papers") / "checkout")
    write_images(folder / "data")
    write_moco(folder / "data/moco/r-50-1000ep.pth.tar")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_paper_runs_from_its_downloads_to_its_report(name: str, checkout: Path, hub: Hub) -> None:
    asking = variables(hub, checkout.parent / "home")
    done = snakemake(checkout, "--cores", "2", "--configfile", write_small(checkout, name), **asking)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    config = read(name)
    made = pd.read_csv(checkout / "results" / config["run"] / "metrics.csv")
    methods = {method for track in ("fusion", "distill", "clip") for method in config.get(track, {}).get("methods", {})}
    assert methods <= set(made["method"])
    undefined = made["metric"].isin(("score_ratio", "gap_closure"))  # of tiny models that score nothing
    assert made[~undefined]["value"].notna().all()
    assert (checkout / "reports" / config["run"] / "index.html").is_file()


@pytest.mark.parametrize("files", [*([name] for name in NAMES), *([name, f"one-card/{name}"] for name in ONE_CARD)])
def test_a_paper_is_planned_for_a_cluster(files: list[str], checkout: Path) -> None:
    """At its own size, without a network."""
    given = [f"config/paper/{name}.yaml" for name in files]
    done = snakemake(checkout, "-n", "--configfile", *given, profile="slurm")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
