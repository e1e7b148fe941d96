"""Encode the images that support sets are drawn from, or those of the test; never both in one job."""

from __future__ import annotations

import argparse
from pathlib import Path

from logitfusion.clip.data import DataSet, ImageRow, load_data, match_classes
from logitfusion.clip.data.duplicates import describe_duplicates, find_duplicates
from logitfusion.clip.data.support import make_support, write_support
from logitfusion.clip.features.encode import CLIP, encode_images
from logitfusion.clip.features.pool import manifest, write_classifier
from logitfusion.clip.features.splits import write_features
from logitfusion.config.jobs.clip import SupportFeaturesJob, TestFeaturesJob
from logitfusion.files import whole
from logitfusion.integrity import check_files
from logitfusion.models.load import use_threads
from logitfusion.progress.pace import Rate
from logitfusion.provenance import record
from logitfusion.stages._clip import open_auxiliaries, open_clip_folder
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, job: SupportFeaturesJob | TestFeaturesJob) -> None:
    threads = use_threads()
    data = load_data(arguments.data)
    if arguments.images is not None:
        check_files(arguments.images)
    if arguments.like is not None:
        data = match_classes(data, load_data(arguments.like).classes)
    clip = open_clip_folder(arguments.clip)
    encoders = {CLIP: clip, **open_auxiliaries(job.auxiliaries, arguments.package, arguments.fetched)}
    facts = {"classes": data.classes, "prompts": data.prompts, "scale": clip.scale}
    facts["encoders"] = {name: encoder.fingerprint for name, encoder in encoders.items()}
    told = {"split": data.split}
    with whole(arguments.output) as folder:
        folder.mkdir()
        if arguments.split == "support":
            rows, short = _draw(data, job, folder)
            told["short"] = short
            write_classifier(folder, clip.classifier(data.classes, data.prompts), **facts)
        else:
            rows = data.test
        encoded = encode_images(
            rows,
            encoders,
            arguments.cache,
            split=arguments.split,
            views=job.views if arguments.split == "support" else 1,
            seed=job.seed,
            batch_size=job.batch_size,
            max_megapixels=job.max_megapixels,
            max_skipped=job.max_skipped,
            workers=threads,
            progress=_Pace(arguments.dataset),
        )
        for line in describe_duplicates(find_duplicates(encoded.ids, encoded.digests, encoded.labels.tolist())):
            logger.warning("%s: %s", arguments.dataset, line)
        if encoded.skipped:
            names = ", ".join(encoded.skipped)
            logger.warning("%d of %d images can't be read and are left out: %s", len(encoded.skipped), len(rows), names)
        for name in encoders:
            write_features(folder / f"{name}.safetensors", encoded, name, arguments.split)
        record(folder / "stage.json", job.dump(), **facts, **told)
    logger.info("%s: %s images through %s", arguments.dataset, len(rows), ", ".join(encoders))


def _draw(data: DataSet, job: SupportFeaturesJob, folder: Path) -> tuple[list[ImageRow], dict[str, int]]:
    """All images of all support sets, once each, and the classes that have fewer than the most shots."""
    rows: dict[str, ImageRow] = {}
    for seed in job.seeds:
        support = make_support(data.train, max(job.shots), seed)
        write_support(manifest(folder, seed), support, data.classes)
        rows |= {row.id: row for row in support.rows}
    short = {data.classes[label]: count for label, count in support.short(max(job.shots)).items()}
    if short:
        logger.warning("classes with fewer images than %d shots: %s", max(job.shots), short)
    return [rows[name] for name in sorted(rows)], short


class _Pace:
    """A line every few seconds; how many images have to be encoded is known with the first call."""

    def __init__(self, title: str) -> None:
        self.title, self.seen, self.rate = title, 0, None

    def __call__(self, done: int, total: int) -> None:
        self.rate = self.rate or Rate(self.title, "images", total)
        self.rate(done - self.seen)
        self.seen = done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="its name, for messages")
    parser.add_argument("--split", choices=["support", "test"], required=True)
    parser.add_argument("--data", type=Path, required=True, help="the data set's table")
    parser.add_argument("--images", type=Path, help="the folder that the table's images are in")
    parser.add_argument("--like", type=Path, help="the table of the set whose labels are meant (a shifted set)")
    parser.add_argument("--clip", type=Path, required=True, help="the CLIP's folder")
    parser.add_argument("--package", type=Path, nargs="*", default=[], help="packages of auxiliaries, by name")
    parser.add_argument("--fetched", type=Path, nargs="*", default=[], help="records of fetched auxiliaries")
    parser.add_argument("--cache", type=Path, required=True, help="folder of features of all runs, by content")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    run_stage(main, parser, SupportFeaturesJob | TestFeaturesJob)
