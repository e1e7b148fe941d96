# Plots and tables of the distillation track, made from the metrics table and the students' loss curves.
from logitfusion.config.jobs.report import students_track


rule plot_students:
    input:
        RESULTS / "metrics.parquet",
    output:
        report(
            RESULTS / "plots/students.svg",
            caption="../report/students.rst",
            category="Results",
            labels={"what": "students by task", "track": "distillation"},
        ),
    log:
        LOGS / "plots/students.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        **settings(lambda wildcards: students_track(RUN)),
    shell:
        stage("plot", "students")


rule summary_students:
    input:
        RESULTS / "metrics.parquet",
    output:
        report(
            RESULTS / "distill_summary.html",
            caption="../report/students_summary.rst",
            category="Results",
            labels={"what": "summary table", "track": "distillation"},
        ),
        RESULTS / "distill_summary.md",
    log:
        LOGS / "plots/distill_summary.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        **settings(lambda wildcards: students_track(RUN)),
    shell:
        stage("plot", "students_summary")


rule plot_student_losses:
    input:
        [trial_folder(name) for name in TRIALS],
    output:
        report(
            RESULTS / "plots/student_losses.svg",
            caption="../report/student_losses.rst",
            category="Training",
            labels={"what": "loss curves of students", "track": "distillation"},
        ),
    log:
        LOGS / "plots/student_losses.log",
    conda:
        "../../envs/light.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=longer(10),
    params:
        **settings(lambda wildcards: students_track(RUN)),
    shell:
        stage("plot", "student_losses")


STUDENTS_REPORT = [
    RESULTS / "plots/students.svg",
    RESULTS / "plots/student_losses.svg",
    RESULTS / "distill_summary.html",
]
