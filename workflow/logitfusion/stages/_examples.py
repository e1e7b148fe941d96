"""The examples of a run, read for its page: those of a task or a data set whose files are missing are left out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from logitfusion.artefact import read_artefact
from logitfusion.clip.data import load_data
from logitfusion.clip.data.images import thumbnail
from logitfusion.config.jobs.page import PageJob
from logitfusion.config.jobs.report import steered_methods
from logitfusion.config.methods import steering_experts
from logitfusion.report.fewshot.shared import Predictions
from logitfusion.report.index.facts import RunFiles
from logitfusion.report.index.image_examples import ImageExamples
from logitfusion.report.index.text_examples import TextExamples
from logitfusion.report.style import assign_colours
from logitfusion.tables import read_table

SIDE = 56  # pixels of a thumbnail


def read_examples(job: PageJob, files: RunFiles) -> list[TextExamples | ImageExamples]:
    """A source a track that has examples."""
    sources: list[TextExamples | ImageExamples] = []
    if found := _present(files.judged):
        sources.append(_read_fusion(job, found))
    if found := _present(files.answered):
        sources.append(_read_distillation(job, found))
    if len(found := _present(files.predictions)) and len(_present(files.images)) == len(files.images):
        sources.append(_read_images(job, found, files.images))
    return sources


def _present(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if path.exists()]


def _read_fusion(job: PageJob, judged: Sequence[Path]) -> TextExamples:
    run = job.run
    return TextExamples(
        title="Fusion",
        note="What each method wrote for every test example. Under a token that was steered stand the weights of the"
        " experts there.",
        judged={path.stem: read_table(path) for path in judged},
        methods=job.fusion.methods,
        experts={path.stem: steered_methods(run, path.stem) for path in judged},
        colours=assign_colours(steering_experts(run)),
    )


def _read_distillation(job: PageJob, judged: Sequence[Path]) -> TextExamples:
    track = job.distill
    students = [trial for method in track.methods for trial in track.trials[method]]
    untrained = [name for name in track.trials if name not in track.methods]
    return TextExamples(
        title="Distillation",
        note=f"What every student answered (the number after its method is the seed), beside {track.student}, which is"
        f" the student before training, and the teachers: {', '.join(dict.fromkeys(track.teachers.values()))}.",
        judged={path.stem: read_table(path) for path in judged},
        methods=[*students, *untrained],
        beside="*",
    )


def _read_images(job: PageJob, folders: Sequence[Path], data: Sequence[Path]) -> ImageExamples:
    images = {path.parent.name: {row.id: row for row in load_data(path).test} for path in data}

    @cache
    def find(name: str, image: str) -> bytes | None:
        return thumbnail(images[name][image], SIDE, "WEBP")

    return ImageExamples(
        title="Few-shot CLIP",
        note="Every test image with the answers of CLIP alone and of one method. The probabilities are plain softmax of"
        " the logits and not calibrated: an answer at 99% can well be wrong. u is the uncertainty factor of CLIP on the"
        " image, with the published reference.",
        predictions={folder.name: read_predictions(folder) for folder in folders},
        find=find,
        track=job.clip,
    )


def read_predictions(folder: Path) -> Predictions:
    """The answers on a data set's test images that a folder holds."""
    answers, images = (read_table(folder / f"{part}.parquet") for part in ("answers", "images"))
    return Predictions(answers, images, read_artefact(folder / "stage.json")["classes"])
