# Models that are made here: one folder of safetensors and tokenizer for each. Those of the hub are in fetch.smk.
from logitfusion.config.jobs.models import healing_processes, model_job


rule model:
    input:
        unpack(model_inputs),
    output:
        directory(RESULTS / "models/{model}"),
    log:
        LOGS / "models/{model}.log",
    benchmark:
        BENCHMARKS / "models/{model}.tsv"
    wildcard_constraints:
        model=any_of(RUN.models.keys() - HUB_MODELS.keys()),
    priority: 10  # others wait for them
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=lambda wildcards: healing_processes(RUN, wildcards.model),
        mem_mb=memory(8000, "model", lambda wildcards: wildcards.model),
        runtime=longer(120, "model", lambda wildcards: wildcards.model),
    params:
        **settings(lambda wildcards: model_job(RUN, wildcards.model)),
        checkpoints=checkpoints,
        launcher=lambda wildcards: launcher(healing_processes(RUN, wildcards.model)),
    shell:
        stage("model", "--name {wildcards.model} --checkpoints {params.checkpoints:q}", launched=True)
