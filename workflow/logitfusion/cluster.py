"""Where jobs run: without the user's own packages; on SLURM, if there is one; and why SLURM ended some at a limit."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from logitfusion.errors import UserError

# Found in SLURM's log of the job, or in the state that sacct or squeue gives; sites differ in which they have.
MEMORY_WORDS = r"exceeded memory limit|oom[-_]kill|'OUT_OF_MEMORY'"
TIME_WORDS = r"DUE TO TIME LIMIT|'TIMEOUT'"
# A job as planned, as failed, as submitted, and as finished, in Snakemake's log.
EVENTS = (
    r"^(Error in )?rule (\w+):\n((?: {4}.*\n)+)"
    r"|^Job (\d+) has been submitted with SLURM jobid (\d+)"
    r"|^Finished jobid: (\d+)"
)


@dataclass(frozen=True)
class Block:
    """A job's block in Snakemake's log: its rule, and the facts of its indented lines (``jobid: 7``)."""

    rule: str
    facts: dict[str, str]
    resumes: bool

    @classmethod
    def read(cls, rule: str, body: str) -> Block:
        """The block of a rule from the lines under its name."""
        return cls(rule, dict(re.findall(r"^ {4}(\w+): (.+)$", body, re.MULTILINE)), "--checkpoints" in body)

    def job(self) -> str:
        """The rule, with its wildcards' values in parentheses."""
        values = re.findall(r"=([^,]+)", self.facts.get("wildcards", ""))
        return self.rule + (f" ({', '.join(values)})" if values else "")


def hide_user_packages() -> None:
    """Hide ``~/.local`` from jobs, and from the pip that fills a conda environment.

    Its packages come before an environment's own, and pip skips what it finds there.
    """
    os.environ["PYTHONNOUSERSITE"] = "1"


def check_executor(executor: str) -> None:
    """Refuse to submit jobs where nothing takes them.

    Raises:
        UserError: ``executor``, Snakemake's, is ``slurm``, and its ``sbatch`` is not to be found.
    """
    if executor == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "There is no SLURM here (sbatch is not in PATH): call snakemake on a login node of the cluster,"
            " or run everything on this machine with --profile local."
        )


def explain_failures(logs: Iterable[str | Path]) -> list[str]:
    """A sentence for each job that met a limit in its last try, from Snakemake's logs of the run."""
    text = "".join(Path(path).read_text(errors="replace") for path in logs)
    sentences = [_explain(planned, failed) for planned, failed in _find_failed(text)]
    return [sentence for sentence in sentences if sentence]


def _find_failed(text: str) -> list[tuple[Block, Block]]:
    """Jobs that failed and did not succeed later, each as planned and as failed.

    The log also holds those of jobs that failed, with a numbering of their own; what was submitted tells them apart.
    """
    planned: dict[str, Block] = {}
    submitted: dict[str, Block] = {}
    failed: dict[str, tuple[Block, Block]] = {}
    for error, rule, body, job, slurm_job, finished in re.findall(EVENTS, text, re.MULTILINE):
        block = Block.read(rule, body)
        if job in planned:
            submitted[slurm_job] = planned[job]
        elif finished:
            failed.pop(finished, None)
        elif rule and not error:
            planned[block.facts.get("jobid", "")] = block
        elif block.facts.get("external_jobid") in submitted:
            failed[block.facts["jobid"]] = (submitted[block.facts["external_jobid"]], block)
    return list(failed.values())


def _explain(planned: Block, failed: Block) -> str | None:
    """The sentence about one job, None if it met no limit."""
    asked = dict(re.findall(r"(\w+)=([^,\s]+)", planned.facts["resources"]))
    reasons = failed.facts["message"] + _slurm_log(failed)
    if re.search(MEMORY_WORDS, reasons):
        needed = f"needed more than its {asked['mem_mb']} MB of memory"
        return f"{planned.job()} {needed}: {_advice(planned.rule, 'mem_mb', asked)}."
    if re.search(TIME_WORDS, reasons):
        resumed = "; it goes on from its last checkpoint" if failed.resumes else ""
        needed = f"met its time limit of {asked['runtime']} minutes"
        return f"{planned.job()} {needed}: {_advice(planned.rule, 'runtime', asked)}{resumed}."
    return None


def _advice(rule: str, resource: str, asked: dict[str, str]) -> str:
    more = 2 * int(asked[resource])
    return f"put `{rule}: {{{resource}: {more}}}` into set-resources in slurm/profile.yaml and call again"


def _slurm_log(failed: Block) -> str:
    """What SLURM wrote about the job, if that can be read."""
    for word in failed.facts["log"].replace(",", " ").split():
        path = Path(word)
        if path.name == f"{failed.facts['external_jobid']}.log" and path.exists():
            return path.read_text(errors="replace")
    return ""
