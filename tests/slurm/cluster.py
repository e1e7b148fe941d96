"""A SLURM cluster of one node with two made-up GPUs, for tests: on loopback, in a temporary folder, gone afterwards.

`python tests/slurm/cluster.py snakemake --profile slurm ...` runs one command in such a cluster.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
CPUS, MEMORY_MB = 8, 64_000  # what the node claims to have; jobs are held to their own memory alone
GPUS = ("/dev/null", "/dev/zero")

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={folder}/task_prolog
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=1
SlurmdParameters=config_overrides
MinJobAge=86400
KillWait=2
InactiveLimit=0
NodeName=DEFAULT CPUs={cpus} RealMemory={memory_mb} Gres=gpu:{gpus} State=UNKNOWN
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1
PartitionName={partition} Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""
# What a job's step sees, a line a step: the words that the test is about.
TASK_PROLOG = """\
#!/bin/sh
seen="${{SLURM_CPUS_PER_TASK:-none}} ${{CUDA_VISIBLE_DEVICES:-none}}"
echo "$SLURM_JOB_ID ${{SLURM_STEP_ID:-batch}} $seen" >> {folder}/steps
"""
# Snakemake's executor drops SLURM_CONF before it calls srun inside a job; without it srun looks into /etc.
SRUN = """\
#!/bin/sh
SLURM_CONF={folder}/slurm.conf exec {srun} "$@"
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster: where its files are, and the environment in which SLURM's commands reach it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """The output of one of SLURM's commands."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr).strip()}")
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Every job since the start, finished ones too, as `scontrol show job` describes it, oldest first."""
        lines = self.run("scontrol", "show", "job", "--oneliner").splitlines()
        jobs = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines if line.startswith("JobId=")]
        return sorted(jobs, key=lambda job: int(job["JobId"]))

    def steps(self) -> dict[str, tuple[str, str]]:
        """Job -> SLURM_CPUS_PER_TASK and CUDA_VISIBLE_DEVICES in its step, where the stage runs."""
        lines = [line.split() for line in (self.folder / "steps").read_text().splitlines()]
        return {job: (cpus, devices) for job, step, cpus, devices in lines if step == "0"}

    def end(self, job: str) -> None:
        """Let a job meet its time limit now: SLURM looks every 30 s, and its limits are whole minutes."""
        self.run("scontrol", "update", f"JobId={job}", "EndTime=now+1seconds")

    def set_node(self, state: str) -> None:
        """DRAIN (running jobs go on, no new ones start), DOWN (running jobs are lost) or RESUME."""
        self.run("scontrol", "update", "NodeName=localhost", f"State={state}", "Reason=test")


def wait_for(true: Callable[[], Any], what: str, seconds: float = 600) -> Any:
    """The first true value of a function, asked twice a second; the limit is for what never comes."""
    end = time.monotonic() + seconds
    while not (value := true()):
        if time.monotonic() > end:
            raise TimeoutError(f"Waited {seconds:.0f} s in vain for {what}.")
        time.sleep(0.5)
    return value


def find_obstacle() -> str | None:
    """Why no cluster can be started here, in one sentence; installs SLURM first if that is allowed and needed."""
    missing = [name for name in PROGRAMS if find_program(name) is None]
    if not missing:
        return None
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        return f"SLURM is not here ({', '.join(missing)} missing), and only root on Debian or Ubuntu can install it."
    # The packages' own services stay off: this cluster starts its own.
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "slurm-wlm", "munge"]):
        done = subprocess.run(["apt-get", "-qq", *command], env=quiet, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            return f"SLURM could not be installed: apt-get {command[0]} says: {last}"
    missing = [name for name in PROGRAMS if find_program(name) is None]
    return f"The packages slurm-wlm and munge came without {', '.join(missing)}." if missing else None


def find_program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextlib.contextmanager
def start_cluster(partition: str) -> Iterator[Cluster]:
    """Start munged, slurmctld and slurmd; at the end, however it comes, stop them and every job, and remove the folder.

    Raises:
        RuntimeError: a daemon did not start (with its log), or a process outlived the end.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm-test-", dir="/tmp"))  # short: a socket's path may have 107 characters
    with _no_sudden_end():
        daemons: list[subprocess.Popen[bytes]] = []
        try:
            yield _start(folder, partition, daemons)
        finally:
            _stop(folder, daemons)


def _start(folder: Path, partition: str, daemons: list[subprocess.Popen[bytes]]) -> Cluster:
    ports = _free_ports(2)
    values: dict[str, Any] = {"folder": folder, "ports": ports, "partition": partition, "user": getpass.getuser()}
    values |= {"host": socket.gethostname().split(".")[0], "cpus": CPUS, "memory_mb": MEMORY_MB, "gpus": len(GPUS)}
    values["srun"] = find_program("srun")
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
    (folder / "gres.conf").write_text("".join(f"NodeName=localhost Name=gpu File={file}\n" for file in GPUS))
    (folder / "steps").touch()
    for script, text in {"task_prolog": TASK_PROLOG, "bin/srun": SRUN}.items():
        (folder / script).write_text(text.format(**values))
        (folder / script).chmod(0o755)
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    environment["SLURM_CONF"] = str(folder / "slurm.conf")
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    cluster = Cluster(folder, environment)

    def start(ready: Callable[[], Any], name: str, *arguments: str) -> None:
        command = [str(find_program(name)), *arguments]
        with (folder / f"{name}.out").open("wb") as said:
            daemon = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True
            )
        daemons.append(daemon)
        wait_for(lambda: daemon.poll() is not None or ready(), name)
        if daemon.poll() is not None:
            raise RuntimeError(f"{name} ended with exit code {daemon.returncode}.")

    files = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "munged.log"}
    files |= {"pid-file": "munged.pid", "seed-file": "munged.seed"}
    try:
        keys = [f"--{key}={folder / name}" for key, name in files.items()]
        start((folder / "munge.socket").exists, "munged", "--foreground", "--force", *keys)
        start(lambda: _answers(cluster, "UP", "scontrol", "ping"), "slurmctld", "-D")
        start(
            lambda: _answers(cluster, "idle", "sinfo", "--noheader", "--format=%t"), "slurmd", "-D", "-N", "localhost"
        )
    except (TimeoutError, RuntimeError) as error:
        logs = [path for pattern in ("*.out", "*.log") for path in sorted(folder.glob(pattern))]
        tails = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-1500:]}" for path in logs)
        raise RuntimeError(f"The cluster did not start. {error}\n{tails}") from error
    return cluster


def _answers(cluster: Cluster, word: str, *command: str) -> bool:
    try:
        return word in cluster.run(*command)
    except RuntimeError:
        return False


def _stop(folder: Path, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Jobs first, then the daemons, last what is left of either; all of them carry the folder's name."""
    for kill_signal in (signal.SIGTERM, signal.SIGKILL):
        others = set(find_processes(folder)) - {daemon.pid for daemon in daemons}
        for process in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, kill_signal)
                os.kill(process, signal.SIGCONT)  # a stopped one would not notice
        for daemon in reversed(daemons):
            daemon.send_signal(kill_signal)
        end = time.monotonic() + 10
        while find_processes(folder) and time.monotonic() < end:
            for daemon in daemons:
                daemon.poll()
            time.sleep(0.1)
    left = find_processes(folder)
    if left:
        raise RuntimeError(f"Processes of the test's cluster are still there: {left}; look into {folder}.")
    shutil.rmtree(folder)


def find_processes(folder: Path) -> dict[int, str]:
    """Processes that name the folder in their command line or environment: the daemons, and whatever a job started."""
    found, name = {}, str(folder).encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes()
            if name in command or name in (entry / "environ").read_bytes():
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _no_sudden_end() -> Iterator[None]:
    """A polite kill unwinds the program as Ctrl-C does, so that the cluster is stopped (and pytest stops, too)."""

    def unwind(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    obstacle = find_obstacle()
    if obstacle:
        sys.exit(obstacle)
    try:
        with start_cluster("main") as here:
            code = subprocess.run(sys.argv[1:] or ["sinfo"], env=here.environment, check=False).returncode
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
