# Few-shot CLIP: data sets are unpacked, a CLIP is built or fetched; encoders see the support images of all shots and seeds once (with views), and test
# images in a job of their own; every method is fitted on a data set in one job, all shots and seeds; one job a data set reads the test features.

CLIP = config["clip"]
CLIP_RESULTS = RESULTS / "clip"
FEATURES = Path("results/features")  # by content, so runs share them
# Sets that support sets are drawn from -> themselves and their shifted sets, all of which are tested on.
CLIP_SETS = {
    name: [name, *(other for other, entry in CLIP["datasets"].items() if entry["shift_of"] == name)]
    for name, entry in CLIP["datasets"].items()
    if entry["shift_of"] is None
}


def clip_track():
    """What the tables and plots of this track know of it."""
    return {
        "sets": CLIP_SETS,
        "shots": sorted(CLIP["shots"]),
        "seeds": CLIP["seeds"],
        "baselines": CLIP["baselines"],
        "oracle": CLIP["oracle"],
    }


def data_package(entry):
    """The package of a data set: one that is fetched, one that lies here, or none."""
    if "package" not in entry:
        return []
    return [package_file(entry) if "==" in entry["package"] else entry["package"]]


CLIP_DATA_CONFIGS = {
    name: freeze(f"clip/data/{name}", {key: value for key, value in entry.items() if key != "shift_of"})
    for name, entry in CLIP["datasets"].items()
}


rule clip_data:
    input:
        cfg=lambda wildcards: CLIP_DATA_CONFIGS[wildcards.dataset],
        package=lambda wildcards: data_package(CLIP["datasets"][wildcards.dataset]),
    output:
        images=directory(CLIP_RESULTS / "data/{dataset}/images"),
        table=CLIP_RESULTS / "data/{dataset}/table.parquet",
        record=CLIP_RESULTS / "data/{dataset}/record.json",
    log:
        LOGS / "clip/data/{dataset}.log",
    benchmark:
        BENCHMARKS / "clip/data/{dataset}.tsv"
    priority: 10  # others wait for them
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=longer(30),
    params:
        source=SOURCE,
        options=lambda wildcards, input: options(input, "package"),
    shell:
        stage(
            "clip_data",
            "--dataset {wildcards.dataset} {params.options} --images {output.images:q} --record {output.record:q} --output {output.table:q}",
        )


BUILT = CLIP["encoder"]["source"] == "built"


def without_words(entry):
    """An encoder's entry without what is only said of it in tables."""
    return {key: value for key, value in entry.items() if key != "pretraining"}


rule clip_encoder:
    input:
        cfg=freeze(
            "clip/encoder",
            {
                "encoder": without_words(CLIP["encoder"]),
                "pairs": CLIP["datasets"][CLIP["encoder"]["pairs"]] if BUILT else None,
            },
        ),
        images=CLIP_RESULTS / "data" / CLIP["encoder"]["pairs"] / "images" if BUILT else [],
        package=[package_file(CLIP["encoder"][tower]) for tower in ("image_tower", "text_tower")] if BUILT else [],
    output:
        directory(CLIP_RESULTS / "encoder"),
    log:
        LOGS / "clip/encoder.log",
    benchmark:
        BENCHMARKS / "clip/encoder.tsv"
    priority: 20  # all others wait for it
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=longer(60),
    params:
        source=SOURCE,
        options=lambda wildcards, input: options(input, "images", "package"),
    shell:
        stage("clip_encoder", "{params.options} --output {output:q}")


ENCODING = {key: CLIP[key] for key in ("batch_size", "max_megapixels", "max_skipped", "seed")} | {
    "auxiliaries": {name: without_words(entry) for name, entry in CLIP["auxiliaries"].items()}
}
AUXILIARY_PACKAGES = [
    package_file(entry) for _, entry in sorted(CLIP["auxiliaries"].items()) if entry["source"] == "package"
]
DRAWING = {"shots": sorted(CLIP["shots"]), "seeds": sorted(CLIP["seeds"]), "views": CLIP["views"]}


rule clip_support:
    input:
        cfg=freeze("clip/support", ENCODING | DRAWING),
        data=CLIP_RESULTS / "data/{dataset}/table.parquet",
        images=CLIP_RESULTS / "data/{dataset}/images",
        clip=CLIP_RESULTS / "encoder",
        package=AUXILIARY_PACKAGES,
    output:
        directory(CLIP_RESULTS / "support/{dataset}"),
    log:
        LOGS / "clip/support/{dataset}.log",
    benchmark:
        BENCHMARKS / "clip/support/{dataset}.tsv"
    priority: 15
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=longer(120),
    params:
        source=SOURCE,
        options=lambda wildcards, input: options(input, "package"),
        cache=str(FEATURES),
    shell:
        stage(
            "clip_features",
            "--split support --dataset {wildcards.dataset} --data {input.data:q} --clip {input.clip:q} {params.options} --cache {params.cache:q} --output {output:q}",
        )


def like(wildcards):
    """The set that a shifted set takes its labels from."""
    origin = CLIP["datasets"][wildcards.dataset]["shift_of"]
    return [CLIP_RESULTS / f"data/{origin}/table.parquet"] if origin else []


rule clip_test:
    input:
        cfg=freeze("clip/test", ENCODING),
        data=CLIP_RESULTS / "data/{dataset}/table.parquet",
        like=like,
        images=CLIP_RESULTS / "data/{dataset}/images",
        clip=CLIP_RESULTS / "encoder",
        package=AUXILIARY_PACKAGES,
    output:
        directory(CLIP_RESULTS / "test/{dataset}"),
    log:
        LOGS / "clip/test/{dataset}.log",
    benchmark:
        BENCHMARKS / "clip/test/{dataset}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        gpu=1,
        mem_mb=8000,
        runtime=longer(120),
    params:
        source=SOURCE,
        options=lambda wildcards, input: options(input, "like", "package"),
        cache=str(FEATURES),
    shell:
        stage(
            "clip_features",
            "--split test --dataset {wildcards.dataset} --data {input.data:q} --clip {input.clip:q} {params.options} --cache {params.cache:q} --output {output:q}",
        )


def fit_config(name):
    method, settings = fewshot_method(CLIP, name)
    drawn = {"shots": sorted(CLIP["shots"]), "seeds": sorted(CLIP["seeds"])}
    return drawn | {"method": method, "settings": settings, "oracle": name in CLIP["oracle"]}


FIT_CONFIGS = {name: freeze(f"clip/methods/{name}", fit_config(name)) for name in CLIP["methods"]}


rule clip_fit:
    input:
        cfg=lambda wildcards: FIT_CONFIGS[wildcards.head],
        support=CLIP_RESULTS / "support/{dataset}",
    output:
        directory(CLIP_RESULTS / "heads/{dataset}/{head}"),
    log:
        LOGS / "clip/heads/{dataset}/{head}.log",
    benchmark:
        BENCHMARKS / "clip/heads/{dataset}/{head}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: THREADS
    resources:
        mem_mb=4000,
        runtime=longer(120),
    params:
        source=SOURCE,
    shell:
        stage("clip_fit", "--name {wildcards.head} --support {input.support:q} --output {output:q}")


PREDICT_CONFIGS = {
    name: freeze(f"clip/predict/{name}", {"methods": sorted(CLIP["methods"]), "sets": sets})
    for name, sets in CLIP_SETS.items()
}


rule clip_predict:
    input:
        cfg=lambda wildcards: PREDICT_CONFIGS[wildcards.dataset],
        support=CLIP_RESULTS / "support/{dataset}",
        test=lambda wildcards: [CLIP_RESULTS / f"test/{name}" for name in CLIP_SETS[wildcards.dataset]],
        heads=[CLIP_RESULTS / f"heads/{{dataset}}/{name}" for name in CLIP["methods"]],
    output:
        directory(CLIP_RESULTS / "predictions/{dataset}"),
    log:
        LOGS / "clip/predictions/{dataset}.log",
    benchmark:
        BENCHMARKS / "clip/predictions/{dataset}.tsv"
    conda:
        "../../envs/torch.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=longer(60),
    params:
        source=SOURCE,
    shell:
        stage(
            "clip_predict",
            "--support {input.support:q} --test {input.test:q} --heads {input.heads:q} --output {output:q}",
        )


CLIP_ANSWERS = [CLIP_RESULTS / f"predictions/{name}" for name in CLIP_SETS]
