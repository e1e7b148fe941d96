# Experts and ceilings: fine-tuned on tasks, or merged from fine-tuned ones.
from logitfusion.config.jobs.models import expert_job


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
        gpu=lambda wildcards: int(isinstance(RUN.experts[wildcards.expert], TrainedExpert)),
        mem_mb=16000,
        runtime=longer(240),
    params:
        **settings(lambda wildcards: expert_job(RUN, wildcards.expert)),
        checkpoints=checkpoints,
    shell:
        stage("expert", "--name {wildcards.expert} --checkpoints {params.checkpoints:q}")
