# What a cluster's user reads last when jobs failed: which of them SLURM ended at a limit, and what to do about it.
import re

# Found in SLURM's log of the job, or in the state that sacct or squeue gives; sites differ in which they have.
MEMORY_WORDS = r"exceeded memory limit|oom[-_]kill|'OUT_OF_MEMORY'"
TIME_WORDS = r"DUE TO TIME LIMIT|'TIMEOUT'"


def explain_failures(text):
    """A sentence for each job that met a limit in its last try, from Snakemake's log of the run."""
    planned, failed = {}, {}
    for error, rule, body in re.findall(r"^(Error in )?rule (\w+):\n((?: {4}.*\n)+)", text, re.MULTILINE):
        facts = {"rule": rule} | dict(re.findall(r"^ {4}(\w+): (.+)$", body, re.MULTILINE))
        (failed if error else planned)[facts["jobid"]] = facts
    for job in re.findall(r"^Finished jobid: (\d+)", text, re.MULTILINE):
        failed.pop(job, None)  # a retry succeeded
    return [
        sentence
        for job, facts in failed.items()
        if job in planned and (sentence := explain_failure(planned[job], facts))
    ]


def explain_failure(planned, facts):
    asked = dict(re.findall(r"(\w+)=([^,\s]+)", planned["resources"]))
    wildcards = re.findall(r"=([^,]+)", planned.get("wildcards", ""))
    job = planned["rule"] + (f" ({', '.join(wildcards)})" if wildcards else "")
    said = facts.get("message", "") + slurm_log(facts)
    if re.search(MEMORY_WORDS, said):
        return f"{job} needed more than its {asked['mem_mb']} MB of memory: {advice(planned, 'mem_mb', asked)}."
    if re.search(TIME_WORDS, said):
        return f"{job} met its time limit of {asked['runtime']} minutes: {advice(planned, 'runtime', asked)}; training goes on from its last checkpoint."
    return None


def advice(planned, resource, asked):
    more = 2 * int(asked[resource])
    return f"put `{planned['rule']}: {{{resource}: {more}}}` into set-resources in slurm/profile.yaml and call again"


def slurm_log(facts):
    """What SLURM wrote about the job, if it was one of SLURM's and its log can be read."""
    for word in facts.get("log", "").replace(",", " ").split():
        path = Path(word)
        if path.name == f"{facts.get('external_jobid')}.log" and path.exists():
            return path.read_text(errors="replace")
    return ""
