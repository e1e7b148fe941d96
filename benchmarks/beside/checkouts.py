"""Other people's code: where whoever runs a benchmark fetches it from, and the commit that was measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distillation.peers import Loaded, load


@dataclass(frozen=True)
class Repository:
    """Of code that is run from a folder of the user's; no line of it is kept here.

    Attributes:
        name: as its authors write it.
        package: that is imported, a folder of its root.
        address: what ``git clone`` takes.
        commit: which one stored results are of.
        variable: of ``make bench-peers``, for its folder.
    """

    name: str
    package: str
    address: str
    commit: str
    variable: str

    @property
    def option(self) -> str:
        """Of the command line."""
        return self.variable.lower().replace("_", "-")

    def missing(self, folder: Path | None) -> str | None:
        """How to fetch it, where it is not installed and no folder is named.

        Raises:
            SystemExit: a folder without its code.
        """
        fetch = f"`git clone {self.address}`, there `git checkout {self.commit[:7]}`"
        if folder is None:
            named = f"`make bench-peers {self.variable}=FOLDER`"
            absent = importlib.util.find_spec(self.package) is None
            return f"{self.name} was not compared: {fetch}, then {named}." if absent else None
        if not (folder / self.package).is_dir():
            raise SystemExit(f"{folder} has no folder {self.package}, so it is not {self.name}: {fetch}.")
        return None

    def load(self, folder: Path | None, make: Callable[[], Loaded]) -> tuple[str, Loaded] | None:
        """Its version and what ``make`` imports of it; None where it is not installed and no folder is named."""
        return load(self.name, self.package, folder, make)


_GITHUB = "https://github.com"
PROXY_TUNING = Repository(
    "proxy-tuning",
    "modeling",
    f"{_GITHUB}/alisawuffles/proxy-tuning",
    "5f2da2c2783b3dd898f76e3df3759f16350d9b15",
    "PROXY_TUNING",
)
CLIP_BENCHMARK = Repository(
    "CLIP_benchmark",
    "clip_benchmark",
    f"{_GITHUB}/LAION-AI/CLIP_benchmark",
    "48de38c1689fa6d8b4dd53e3370c669c3bb18117",
    "CLIP_BENCHMARK",
)
TRL = Repository("TRL", "trl", f"{_GITHUB}/huggingface/trl", "f2cd57710ae345ea6428ae95363267fcf38a3dc8", "TRL")
DISTILLKIT = Repository(
    "DistillKit",
    "distillkit",
    f"{_GITHUB}/arcee-ai/DistillKit",
    "a61c2e7d25c2e990d45832e12bd8542bdee9c810",
    "DISTILLKIT",
)
REPOSITORIES = (PROXY_TUNING, CLIP_BENCHMARK, TRL, DISTILLKIT)
