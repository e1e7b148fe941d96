"""Fit one few-shot method on one data set with every number of shots and every seed; it sees support features only."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from logitfusion.clip.features.pool import read_pool
from logitfusion.clip.fitting.fit import fit_method
from logitfusion.clip.head_file import save_head
from logitfusion.clip.heads import Head
from logitfusion.files import whole
from logitfusion.provenance import record
from logitfusion.stages._stage import logger, run_stage


def main(arguments: argparse.Namespace, config: dict[str, Any]) -> None:
    pool = read_pool(arguments.support)
    with whole(arguments.output) as folder:
        folder.mkdir()
        for shots in config["shots"]:
            for seed in config["seeds"]:
                support = pool.draw(shots, seed)
                epochs: list[Head] = []
                keep = {"on_epoch": lambda _, head, kept=epochs: kept.append(head)} if config["oracle"] else {}
                started = time.monotonic()
                head = fit_method(config["method"], support, config["settings"], seed=seed, **keep)
                seconds = time.monotonic() - started
                facts = {"shots": shots, "seed": seed, "images": len(support.labels), "seconds": seconds}
                save_head(
                    folder / f"{shots}-{seed}.safetensors",
                    head,
                    class_names=pool.facts["classes"],
                    encoders=pool.facts["encoders"],
                    metadata=facts | {"prompts": pool.facts["prompts"]},
                    snapshots=epochs,
                )
                logger.info("%s: %d shots, seed %d: %.2f s", arguments.name, shots, seed, seconds)
        record(folder / "stage.json", config)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, help="the method's name, for messages")
    parser.add_argument("--support", type=Path, required=True, help="folder of support features")
    parser.add_argument("--output", type=Path, required=True, help="folder of heads, <shots>-<seed>.safetensors")
    run_stage(main, parser)
