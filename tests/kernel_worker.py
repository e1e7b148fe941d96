"""Solve what a file holds with the kernels, in Triton's interpreter, which has to be on before they are imported."""

from __future__ import annotations

import sys

import torch

from logitfusion.fusion import grid_kernels, solve_weights


def main() -> None:
    given, output = sys.argv[1:]
    grid_kernels.BLOCK = 32  # so that small vocabularies have several blocks
    cases = torch.load(given, weights_only=True)
    torch.save({name: vars(solve_weights(*models, **options)) for name, (models, options) in cases.items()}, output)


if __name__ == "__main__":
    main()
