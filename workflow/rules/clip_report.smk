# Plots and tables of the few-shot track, made from the metrics table and the answers on test images.


def clip_encoder_words():
    encoder = CLIP["encoder"]
    match encoder["source"]:
        case "built":
            words = f"built here of {encoder['image_tower']['model']} and {encoder['text_tower']['package']}"
        case "random":
            words = "random weights"
        case _:
            words = " ".join(encoder.get(key, "") for key in ("model", "pretrained", "path")).strip()
    return f"{words} ({encoder['pretraining']})" if encoder["pretraining"] else words


CLIP_METHODS = {name: fewshot_method(CLIP, name)[0] for name in CLIP["methods"]}
CLIP_CONFIG = freeze(
    "report/clip",
    clip_track()
    | {
        # Pairs, because the config's order of methods is that of the plots.
        "methods": list(CLIP_METHODS.items()),
        "clip": next((name for name, method in CLIP_METHODS.items() if method == "zero_shot"), None),
        "shown": CLIP["shown"],
        "assisted": [name for name, method in CLIP_METHODS.items() if method in NEED_AUXILIARY],
        "auxiliaries": {name: entry["pretraining"] for name, entry in CLIP["auxiliaries"].items()},
        "encoder": clip_encoder_words(),
    },
)


rule plot_clip:
    input:
        cfg=CLIP_CONFIG,
        table=RESULTS / "metrics.parquet",
    output:
        shots=report(
            RESULTS / "plots/clip_shots.svg",
            caption="../report/clip_shots.rst",
            category="Results",
            labels={"what": "accuracy against shots", "track": "few-shot CLIP"},
        ),
        ablation=report(
            RESULTS / "plots/clip_ablation.svg",
            caption="../report/clip_ablation.rst",
            category="Results",
            labels={"what": "AMU without its parts", "track": "few-shot CLIP"},
        ),
        shift=report(
            RESULTS / "plots/clip_shift.svg",
            caption="../report/clip_shift.rst",
            category="Results",
            labels={"what": "in and out of distribution", "track": "few-shot CLIP"},
        ),
        summary=report(
            RESULTS / "clip_summary.html",
            caption="../report/clip_summary.rst",
            category="Results",
            labels={"what": "summary table", "track": "few-shot CLIP"},
        ),
        markdown=RESULTS / "clip_summary.md",
    log:
        LOGS / "plots/clip.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        source=SOURCE,
    shell:
        stage("plot", "fewshot --input {input.table:q} --output {output:q}")


rule plot_clip_answers:
    input:
        cfg=CLIP_CONFIG,
        answers=CLIP_ANSWERS,
        data=expand(CLIP_RESULTS / "data/{dataset}/table.parquet", dataset=CLIP["datasets"]),
        images=expand(CLIP_RESULTS / "data/{dataset}/images", dataset=CLIP["datasets"]),
    output:
        uncertainty=report(
            RESULTS / "plots/clip_uncertainty.svg",
            caption="../report/clip_uncertainty.rst",
            category="Inside AMU",
            labels={"what": "uncertainty against correctness", "track": "few-shot CLIP"},
        ),
        examples=report(
            RESULTS / "plots/clip_examples.html",
            caption="../report/clip_examples.rst",
            category="Inside AMU",
            labels={"what": "answers that the bias changed", "track": "few-shot CLIP"},
        ),
    log:
        LOGS / "plots/clip_answers.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        source=SOURCE,
    shell:
        stage("plot", "fewshot_answers --input {input.answers:q} --data {input.data:q} --output {output:q}")


CLIP_REPORT = [
    RESULTS / "plots/clip_shots.svg",
    RESULTS / "plots/clip_uncertainty.svg",
]
