"""The few-shot command's default against its parts on picture sets that need no hub: `make bench-fewshot-sets`.

The sets are those of `pictures/sets.yaml`, and pairs of their classes. For each number of shots: the test accuracy of
CLIP alone, the probes, their sum, two rivals and the default; how far the default is below its best part; what
`fewshot fit` would recommend, and how far that is below the best. Packages are fetched unless they are in `--packages`;
features are kept in `--features`. The CLIP is the one that the demo builds, so the numbers say nothing about OpenAI's.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from logitfusion.files import write_json, write_text
from pictures.scores import score_set
from pictures.sets import PictureSet, encode_set, open_encoders, read_entries, read_set
from pictures.tables import as_markdown
from timing import describe_machine, use_all_threads


def make_sets(arguments: argparse.Namespace) -> list[PictureSet]:
    """Those that were asked for, each followed by its pairs."""
    encoders, found = open_encoders(arguments.clip, arguments.packages), []
    for name, entry in read_entries().items():
        if name not in arguments.sets:
            continue
        folder = arguments.features / "pictures" / name.replace(" ", "_")
        data = read_set(name, entry, arguments.packages, folder, arguments.test_images)
        options = {"shots": arguments.shots, "seeds": arguments.seeds, "views": arguments.views}
        full = encode_set(name, data, entry["chosen_on"], encoders, arguments.features, **options)
        print(f"{name}: {len(data.classes)} classes, {len(full.labels)} test images", flush=True)
        found.append(full)
        for pair in entry.get("pairs", []) if arguments.pairs else []:
            found.append(full.pair(" or ".join(pair), [data.classes.index(one) for one in pair]))
    return found


def main() -> None:
    names = list(read_entries())
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=names, default=names)
    parser.add_argument("--no-pairs", dest="pairs", action="store_false", help="whole sets only")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--seeds", type=int, default=3, help="draws of the support set")
    parser.add_argument("--compared", type=int, default=1, help="draws of which a recommendation is asked for")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--test-images", type=int, default=500, help="of each set, at most")
    parser.add_argument("--clip", type=Path, default=Path("results/demo/clip/encoder"))
    parser.add_argument("--packages", type=Path, default=Path("results/packages"), help="where they are, or are put")
    parser.add_argument("--features", type=Path, default=Path("results/bench/fewshot-sets"), help="pictures and cache")
    parser.add_argument("--output", type=Path, default=Path("results/bench/fewshot-sets.json"))
    arguments = parser.parse_args()
    use_all_threads()
    settings = {
        key: getattr(arguments, key) for key in ("sets", "shots", "seeds", "compared", "views", "test_images", "pairs")
    }
    # The folder's own name and run: a path of this machine would tell a reader nothing.
    settings["clip"] = "/".join(arguments.clip.parts[-3:])
    found: dict[str, Any] = {"settings": settings, "machine": describe_machine(torch.device("cpu")), "rows": []}
    for pictures in make_sets(arguments):
        start = time.perf_counter()
        for shots in arguments.shots:
            found["rows"].append(score_set(pictures, shots, arguments.seeds, arguments.compared))
        print(f"{pictures.name}: {time.perf_counter() - start:.0f} s", flush=True)
        write_json(arguments.output, found)
        write_text(arguments.output.with_suffix(".md"), as_markdown(found))
    print(as_markdown(found))


if __name__ == "__main__":
    main()
