"""What a rule asks of the scheduler: the plan's numbers, from the records of models that are there, without torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from logitfusion.config.run import RunConfig
from logitfusion.errors import UserError
from logitfusion.files import read_json
from logitfusion.integrity import read_record
from logitfusion.plan.counted import Counted, Models, root
from logitfusion.plan.hardware import GPUS
from logitfusion.plan.jobs import Assumed, Job
from logitfusion.plan.planner import Planner
from logitfusion.plan.size import ITEM, CachedLayer, ModelSize
from logitfusion.plan.tasks import RecordedTasks
from logitfusion.plan.training import Activations, Forward, estimate

# Room above the plan, and the slower of the cards that such models are run on: another card's name is not known.
_ROOM, _CARD = 1.2, GPUS["A100-40GB"]


class PlannedResources:
    """Memory and time of the jobs of a run.

    Args:
        run: its config.
        results: the run's folder. What is not there yet is not known; a job is asked again when all it reads is.
    """

    def __init__(self, run: RunConfig, results: Path) -> None:
        self.planner = Planner(run, RecordedModels(results), Assumed(), _keeps, RecordedTasks(run, results))

    def memory_mb(self, rule: str, name: str, least: int) -> int:
        """Of the machine, for a job on the GPUs that it asks for; ``least`` where that is more or nothing is known."""
        job = self._find(rule, name)
        return least if job is None else max(least, math.ceil(_ROOM * job.cost.host_bytes / 1e6))

    def minutes(self, rule: str, name: str, least: int) -> int:
        """Of walltime."""
        job = self._find(rule, name)
        if job is None or job.cost.work is None:
            return least
        return max(least, math.ceil(_ROOM * job.cost.work.seconds(_CARD) / 60))

    def _find(self, rule: str, name: str) -> Job | None:
        try:
            job = self.planner.find(rule, name)
            return job if job is not None and job.cost is not None else None
        except UserError:  # a broken record, which the job itself says
            return None


def _keeps(model: Counted, forward: Forward, tokens: int) -> Activations:
    return estimate(model.size, forward)


class RecordedModels(Models):
    """The models whose folders are there, counted by their records and configs."""

    def __init__(self, results: Path) -> None:
        super().__init__({}, {})
        self.results = results

    def find(self, run: RunConfig, name: str) -> Counted | None:
        base = root(run, name)
        if base not in self.counted:
            found = read_size(self.results / "models" / base)
            if found is None:
                self.unknown[base] = "it is not there"
                return None
            self.counted[base] = Counted(found, {})
        return super().find(run, name)


def read_size(folder: Path) -> ModelSize | None:
    """The numbers of a model in a folder of the run; None where there is none yet.

    Without its architecture they are those of a dense decoder: a mixture's experts all take part.
    """
    try:
        record = read_record(folder)
    except UserError:  # which whoever reads the model says
        return None
    if record is None or not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    try:
        return _count(record, text, str(record.get("stored_dtype") or config.get("dtype") or "float32"))
    except (KeyError, TypeError, ValueError):
        return None


def _count(record: dict[str, Any], text: dict[str, Any], dtype: str) -> ModelSize:
    parameters, layers, vocabulary = (int(record[name]) for name in ("parameters", "layers", "vocabulary"))
    hidden = int(text.get("hidden_size") or text["n_embd"])
    heads = int(text.get("num_attention_heads") or text.get("n_head") or 1)
    width = 2 * (text.get("num_key_value_heads") or heads) * (text.get("head_dim") or hidden // heads)
    wide = int(text.get("intermediate_size") or 4 * hidden)
    embedding = hidden * vocabulary * (1 if text.get("tie_word_embeddings", True) else 2)
    linear = max(0, parameters - embedding)
    return ModelSize(
        parameters=parameters,
        active=parameters,
        linear=linear,
        embedding=embedding,
        layer=linear // max(1, layers),
        adapted=layers * (6 * hidden + width + 3 * (hidden + wide)),
        hidden=hidden,
        widest=max(hidden, wide),
        heads=heads,
        vocabulary=vocabulary,
        cache=(CachedLayer(width),) * layers,
        context=text.get("max_position_embeddings"),
        dtype=dtype if dtype in ITEM else "float32",
    )
