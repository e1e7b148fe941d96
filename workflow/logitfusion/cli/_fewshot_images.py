"""The images that a command line of ``fewshot`` names, found before anything heavy is imported."""

from __future__ import annotations

import argparse
import sys

from logitfusion.clip.data.found import left_out_lines
from logitfusion.clip.data.labelled import (
    Labelled,
    find_unlabelled,
    join_labelled,
    list_unlabelled,
    read_labelled_folder,
    read_labelled_list,
)
from logitfusion.clip.data.names import NONE, read_names, text_key
from logitfusion.errors import UserError
from logitfusion.formats.text import check_unicode


def read_to_learn(arguments: argparse.Namespace) -> Labelled:
    """All images to learn from; files that are not used are told.

    Raises:
        UserError: there is nothing to learn from.
    """
    names = None if arguments.class_names is None else read_names(arguments.class_names)
    if arguments.images is not None:
        found = read_labelled_folder(arguments.images, names)
    else:
        found = read_labelled_list(arguments.csv, names)
    for name in found.classes:
        check_unicode(name, f"The class {name!r}")
        if text_key(name) == NONE:
            raise UserError(
                f"The class {name!r} is called as answers that are too unsure are; call it something else, with"
                " --class-names or by its folder or label."
            )
    for line in left_out_lines(found.left_out):
        print(line, file=sys.stderr)
    return found


def read_unlabelled(arguments: argparse.Namespace) -> Labelled:
    """The images that are listed, or named, and those in folders that are named, in this order, each once.

    Raises:
        UserError: there are none.
    """
    if arguments.csv is not None:
        return list_unlabelled(arguments.csv)
    return join_labelled([find_unlabelled(place) for place in arguments.images])
