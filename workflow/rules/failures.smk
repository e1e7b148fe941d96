# What a cluster's user reads last when jobs failed: which of them SLURM ended at a limit, and what to do about it.
import re

# Found in SLURM's log of the job, or in the state that sacct or squeue gives; sites differ in which they have.
MEMORY_WORDS = r"exceeded memory limit|oom[-_]kill|'OUT_OF_MEMORY'"
TIME_WORDS = r"DUE TO TIME LIMIT|'TIMEOUT'"
# A job as planned, as failed, as submitted, and as finished, in Snakemake's log.
EVENTS = r"^(Error in )?rule (\w+):\n((?: {4}.*\n)+)|^Job (\d+) has been submitted with SLURM jobid (\d+)|^Finished jobid: (\d+)"


def explain_failures(text):
    """A sentence for each job that met a limit in its last try, from Snakemake's log of the run.

    The log also holds those of jobs that failed, with a numbering of their own; what was submitted tells them apart.
    """
    planned, submitted, failed = {}, {}, {}
    for error, rule, body, job, slurm_job, finished in re.findall(EVENTS, text, re.MULTILINE):
        facts = {"rule": rule, "resumes": "--checkpoints" in body} | dict(
            re.findall(r"^ {4}(\w+): (.+)$", body, re.MULTILINE)
        )
        if job in planned:
            submitted[slurm_job] = planned[job]
        elif finished:
            failed.pop(finished, None)
        elif rule and not error:
            planned[facts.get("jobid")] = facts
        elif facts.get("external_jobid") in submitted:
            failed[facts["jobid"]] = (submitted[facts["external_jobid"]], facts)
    sentences = [explain_failure(*pair) for pair in failed.values()]
    return [sentence for sentence in sentences if sentence]


def explain_failure(planned, failed):
    """The sentence about one job, None if it met no limit; its block of the log as planned, and as failed."""
    asked = dict(re.findall(r"(\w+)=([^,\s]+)", planned["resources"]))
    wildcards = re.findall(r"=([^,]+)", planned.get("wildcards", ""))
    job = planned["rule"] + (f" ({', '.join(wildcards)})" if wildcards else "")
    said = failed["message"] + slurm_log(failed)
    if re.search(MEMORY_WORDS, said):
        return f"{job} needed more than its {asked['mem_mb']} MB of memory: {advice(planned, 'mem_mb', asked)}."
    if re.search(TIME_WORDS, said):
        resumed = "; it goes on from its last checkpoint" if failed["resumes"] else ""
        return f"{job} met its time limit of {asked['runtime']} minutes: {advice(planned, 'runtime', asked)}{resumed}."
    return None


def advice(planned, resource, asked):
    more = 2 * int(asked[resource])
    return f"put `{planned['rule']}: {{{resource}: {more}}}` into set-resources in slurm/profile.yaml and call again"


def slurm_log(failed):
    """What SLURM wrote about the job, if that can be read."""
    for word in failed["log"].replace(",", " ").split():
        path = Path(word)
        if path.name == f"{failed['external_jobid']}.log" and path.exists():
            return path.read_text(errors="replace")
    return ""
