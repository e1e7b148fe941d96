# A comparison whose test splits are decoded once: which jobs decode one, and whether they may.
import functools

from snakemake.logging import logger

from logitfusion.config.jobs.protocol import standing, tested_tracks
from logitfusion.protocol import admission


@functools.cache
def protocol_of_run():
    """What jobs that decode a test split know of the protocol."""
    try:
        return admission.make_job(RUN, RESULTS.parent)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def protocol(split="test"):
    """A param of rules that decode a split: what their stage checks before it decodes a test split, else nothing.

    It depends on more than the job does, so it reruns nothing (see settings).
    """

    def option(wildcards, input):
        return ["--protocol", canonical(protocol_of_run())] if standing(RUN, split) else []

    return option


# A comparison that is to be confirmed, in a run that decodes test splits.
CONFIRMATORY = standing(RUN) == "confirmatory" and bool(tested_tracks(RUN))


def check_protocol():
    """Refuse a call that decodes a test split, or compares what was decoded, other than it is frozen."""
    if CONFIRMATORY and any(
        job.params.get("protocol") or job.rule.name == "metrics" for job in workflow.dag.needrun_jobs()
    ):
        admission.check(protocol_of_run(), RUN)


def warn_of_protocol():
    """Say in a dry run what a run would be refused for."""
    if workflow.output_settings.dryrun and CONFIRMATORY:
        try:
            admission.check(protocol_of_run(), RUN)
        except UserError as error:
            logger.warning(f"Test splits would not be decoded. {error}")


warn_of_protocol()
