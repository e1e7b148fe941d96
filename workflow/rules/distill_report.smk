# Plots and tables of the distillation track, made from the metrics table and the students' loss curves.
from logitfusion.config.jobs.report import students_track


rule plot_students:
    input:
        RESULTS / "metrics.parquet",
    output:
        shown("plots/students.svg", "2 Results", "Distillation: scores by task"),
        shown("distill_summary.html", "2 Results", "Distillation: summary table", "students_summary"),
        RESULTS / "distill_summary.md",
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


rule plot_student_losses:
    input:
        [trial_folder(name) for name in TRIALS],
    output:
        shown("plots/student_losses.svg", "5 Training", "Students: loss curves"),
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
