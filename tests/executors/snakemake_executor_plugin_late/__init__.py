"""An executor for tests: each job is a Snakemake of its own, as on a cluster, and starts late.

Before it starts, its config file is replaced by the next of ``edits/*``, as by a user who goes on editing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecMode

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(RealExecutor):
    def run_job(self, job: JobExecutorInterface) -> None:
        info = SubmittedJobInfo(job)
        self.report_job_submission(info)
        command = self.format_job_exec(job)
        edit = min(Path("edits").glob("*"))
        edit.replace("config/edited.yaml")
        done = subprocess.run(command, shell=True, check=False)
        (self.report_job_success if done.returncode == 0 else self.report_job_error)(info)

    def get_exec_mode(self) -> ExecMode:
        return ExecMode.REMOTE

    def get_python_executable(self) -> str:
        return sys.executable

    @property
    def cores(self) -> str:
        return "all"

    def cancel(self) -> None:
        pass

    def shutdown(self) -> None:
        pass
