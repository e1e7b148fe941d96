"""Make the folder of the CLIP: built of two towers, fetched, or of random initialisation."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from logitfusion.clip.data.emoji import emoji_pairs
from logitfusion.clip.encoders.build import build_clip
from logitfusion.clip.encoders.load import load_clip
from logitfusion.clip.encoders.tiny import make_random_clip
from logitfusion.clip.encoders.towers import read_package, unpack_text_tower
from logitfusion.config.clip_recipe import ClipRecipe
from logitfusion.files import whole
from logitfusion.models.load import use_threads
from logitfusion.provenance import record
from logitfusion.stages._clip import open_clip_folder, write_entry
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    use_threads()
    entry, facts = config["encoder"], {}
    with whole(arguments.output) as folder:
        match entry["source"]:
            case "built":
                facts = _build(arguments, config, folder)
                write_entry(folder, {"source": "built"})
            case "random":
                folder.mkdir()
                make_random_clip(folder, entry["seed"])
                write_entry(folder, {"source": "built"})
            case _:
                folder.mkdir()
                load_clip(entry)  # fetches the weights now, where there is a network; they stay in the hub's own cache
                write_entry(folder, entry)
        clip = open_clip_folder(folder)
        record(folder / "stage.json", config, fingerprint=clip.fingerprint, scale=clip.scale, **facts)
    logger.info("CLIP %s, scale %.1f", clip.fingerprint[:12], clip.scale)


def _build(arguments: argparse.Namespace, config: dict[str, Any], folder: Path) -> dict[str, Any]:
    entry, (image_wheel, text_wheel) = config["encoder"], arguments.package
    image, text = entry["image_tower"], entry["text_tower"]
    pairs = [(pair.path, pair.caption) for pair in emoji_pairs(config["pairs"], arguments.images)]
    with tempfile.TemporaryDirectory() as scratch:
        built = build_clip(
            pairs,
            folder,
            image_tower=(image["model"], read_package(image["model"], image_wheel, image["file"])),
            text_tower=unpack_text_tower(text_wheel, text["file"], scratch),
            recipe=ClipRecipe(**entry["recipe"]),
        )
    return {key: built[key] for key in ("pairs", "concepts", "retrieval")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="the unpacked emojis that pairs are taken from")
    parser.add_argument("--package", type=Path, nargs="*", default=[], help="packages of image and text tower")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser)
