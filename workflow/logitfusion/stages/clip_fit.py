"""Fit one few-shot method on one data set with every number of shots and every seed; it sees support features only."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from logitfusion.clip.features.pool import read_pool
from logitfusion.clip.fitting.fit import fit_method
from logitfusion.clip.head_file import save_head
from logitfusion.clip.heads import Head
from logitfusion.clip.methods import METHODS, complete_settings
from logitfusion.clip.methods.progress import listening
from logitfusion.config.jobs.clip import FitJob
from logitfusion.files import whole
from logitfusion.progress.pace import Rate, ShareLines
from logitfusion.provenance import record
from logitfusion.stages._heads import RECORD, head_file
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, job: FitJob) -> None:
    pool = read_pool(arguments.support)
    caution = METHODS[job.method].caution(complete_settings(job.method, job.settings), len(pool.facts.classes))
    if caution is not None:
        logger.warning("%s: %s", arguments.name, caution)
    rate = Rate(arguments.name, "heads", len(job.shots) * len(job.seeds))
    with whole(arguments.output) as folder:
        folder.mkdir()
        for shots in job.shots:
            for seed in job.seeds:
                support = pool.draw(shots, seed)
                epochs: list[Head] = []
                keep = {"on_epoch": lambda _, head, kept=epochs: kept.append(head)} if job.oracle else {}
                started = time.monotonic()
                with listening(ShareLines(f"{arguments.name}, {shots} shots, seed {seed}", logger.info)):
                    head = fit_method(job.method, support, job.settings, seed=seed, **keep)
                seconds = time.monotonic() - started
                facts = {"shots": shots, "seed": seed, "images": len(support.labels), "seconds": seconds}
                save_head(
                    head_file(folder, shots, seed),
                    head,
                    class_names=pool.facts.classes,
                    encoders=pool.facts.encoders,
                    metadata=facts | {"prompts": list(pool.facts.prompts)},
                    snapshots=epochs,
                )
                logger.info("%s: %d shots, seed %d: %.2f s", arguments.name, shots, seed, seconds)
                rate(1)
        record(folder / RECORD, job.dump())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the method's name, for messages")
    parser.add_argument("--support", type=Path, required=True, help="folder of support features")
    parser.add_argument("--output", type=Path, required=True, help="folder of heads, <shots>-<seed>.safetensors")
    run_stage(main, parser, FitJob)
