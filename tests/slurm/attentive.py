"""Snakemake that looks for finished jobs every two seconds, or else the next of many small jobs waits for its look."""

from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor

# Ten seconds more after every look that found nothing, whatever the options say.
Executor.next_seconds_between_status_checks = property(lambda _: 2, lambda _, seconds: None)

if __name__ == "__main__":
    main()
