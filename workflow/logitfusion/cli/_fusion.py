"""What all subcommands with a fusion share: the options of its models and of how its experts steer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from logitfusion.cli._options import add_options, given_values, read_section, spell
from logitfusion.config.fusion_options import FusionOptions
from logitfusion.config.loading import Placed
from logitfusion.errors import UserError

if TYPE_CHECKING:
    from logitfusion.fusion import FusedLM

_FORMS = {
    "weights": {"metavar": "dynamic|NUMBER|N,N"},
    "gate": {"metavar": "FILE.json"},
    "bounds": {"type": float, "nargs": "+", "metavar": "LOW HIGH"},
}


def add_fusion(parser: argparse.ArgumentParser) -> None:
    """The options of a fusion."""
    models = parser.add_argument_group("models")
    models.add_argument("--large", type=Path, required=True, metavar="DIR", help="the model that is steered")
    models.add_argument("--base", type=Path, metavar="DIR", help="the small model that the experts were trained from")
    models.add_argument(
        "--expert", type=Path, nargs="+", action="extend", default=[], metavar="DIR", help="models that steer"
    )
    add_options(models, Placed)
    add_options(parser.add_argument_group("fusion"), FusionOptions, forms=_FORMS)


def fusion_inputs(arguments: argparse.Namespace) -> dict[str, Path | Sequence[Path] | None]:
    """The folders of its models and the file of its gate, by option."""
    gate = getattr(arguments, "gate", None)
    return {
        "--large": arguments.large,
        "--base": arguments.base,
        "--expert": arguments.expert,
        "--gate": None if gate is None else Path(gate),
    }


def read_fusion(arguments: argparse.Namespace) -> FusionOptions:
    """The options of the fusion that the command line names, checked before anything is loaded.

    Raises:
        UserError: folders that are not there, experts without a base, or options that can't be used.
    """
    for folder in (arguments.large, arguments.base, *arguments.expert):
        if folder is not None and not folder.is_dir():
            raise UserError(f"The model folder {folder} does not exist.")
    if bool(arguments.expert) != bool(arguments.base):
        raise UserError("Experts steer by their difference from a small base: give both --base and --expert.")
    if {"gate", "weights"} <= given_values(FusionOptions, arguments).keys():
        raise UserError("--gate solves the weights, and --weights fixes them; leave one of them out.")
    from logitfusion.fusion.options import parse_options
    from logitfusion.fusion.steering import Steering

    read_section(Placed, arguments)
    options = parse_options(given_values(FusionOptions, arguments), spell)
    Steering(options, len(arguments.expert))
    return options


def load_fusion(arguments: argparse.Namespace) -> FusedLM:
    """The fusion that the command line names."""
    options = read_fusion(arguments)
    from logitfusion.fusion import FusedLM
    from logitfusion.models.load import use_threads

    use_threads()
    loading = read_section(Placed, arguments)
    return FusedLM.from_folders(
        arguments.large,
        arguments.base,
        arguments.expert,
        dtype=loading.dtype,
        device_map=loading.device_map,
        attn_implementation=loading.attention,
        options=options,
    )
