# Experts and ceilings: fine-tuned on tasks, or merged from fine-tuned ones.
from logitfusion.config.jobs.models import expert_job, expert_processes


rule expert:
    input:
        unpack(expert_inputs),
    output:
        directory(RESULTS / "experts/{expert}"),
    log:
        LOGS / "experts/{expert}.log",
    benchmark:
        BENCHMARKS / "experts/{expert}.tsv"
    priority: 10  # others wait for them
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=lambda wildcards: expert_processes(RUN, wildcards.expert),
        mem_mb=memory(16000, "expert", lambda wildcards: wildcards.expert),
        runtime=longer(240, "expert", lambda wildcards: wildcards.expert),
    params:
        **settings(lambda wildcards: expert_job(RUN, wildcards.expert)),
        checkpoints=checkpoints,
        launcher=lambda wildcards: launcher(expert_processes(RUN, wildcards.expert)),
    shell:
        stage("expert", "--name {wildcards.expert} --checkpoints {params.checkpoints:q}", launched=True)
