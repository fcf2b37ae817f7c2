"""A real SLURM cluster of one node with two pretended GPUs, for tests; needs root, slurm-wlm and munge.

One cluster at a time fits on a machine: SLURM's jobs read /etc/slurm and nothing else. Test sessions share
one that runs already, and cancel what they find in it; the last of them stops it.
"""

import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

FOLDER = Path("/tmp/myostage-slurm")
RUN = FOLDER / "run"  # everything of one start; gone after a stop
ETC = Path("/etc/slurm")
NAME = "myostage"
CPUS = 8
MEMORY_MB = 20_000
GPUS = ("/dev/null", "/dev/zero")
MARK = "# Written by tests/support/one_node.py, which also removes it."
CONFS = ("slurm.conf", "gres.conf", "cgroup.conf")
DAEMONS = ("munged", "slurmctld", "slurmd")
PROGRAMS = (*DAEMONS, "sinfo", "squeue", "sbatch", "srun", "scancel", "scontrol")

# Several lines deserve a reason:
# - config_overrides: the node claims more cores than the machine has, so that several jobs run at once.
# - cred_expire: a requeued job waits that long before it starts again (default: two minutes).
# - OverMemoryKill: memory is looked at every second and enforced without cgroups.
# - ReturnToService: a node that was set down stays down until somebody takes it back.
# - The folder of the munge socket is ours: a munge of the machine stays as it is.
CONF = """\
{mark}
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={run}/munge/socket,cred_expire=5
StateSaveLocation={run}/state
SlurmdSpoolDir={run}/spool
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd.pid
SlurmctldLogFile={run}/slurmctld.log
SlurmdLogFile={run}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
GresTypes=gpu
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
OverTimeLimit=0
MinJobAge=300
InactiveLimit=0
ReturnToService=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=gpu Nodes={host} State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=scavenge Nodes={host} State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes={host} State=UP PriorityTier=10 PreemptMode=OFF
"""


class Job(NamedTuple):
    """One line of squeue."""

    id: str
    state: str
    name: str
    comment: str
    workdir: str
    partition: str


def host() -> str:
    """Name of this machine as SLURM sees it."""
    return socket.gethostname().split(".")[0]


def unavailable() -> str:
    """Why no cluster can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "a SLURM for tests needs root"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=_path())]
    if missing:
        return f"a SLURM for tests needs the packages slurm-wlm and munge: no {', '.join(missing)} here"
    conf = ETC / "slurm.conf"
    if conf.exists() and not _is_ours(conf):
        return f"this machine has a SLURM of its own: {conf}"
    ours = _daemons()
    for pid, program in _programs():
        if program in ("slurmctld", "slurmd") and pid not in ours:
            return f"this machine runs a SLURM of its own: {program}, process {pid}"
    return ""


class Cluster:
    """The cluster of this machine; as a context manager, started when none runs, stopped by its last user."""

    def __init__(self) -> None:
        self._use: contextlib.ExitStack | None = None

    def __enter__(self) -> Self:
        self._use = contextlib.ExitStack()
        with _locked("start.lock"):
            self._use.enter_context(_locked("users.lock", fcntl.LOCK_SH))
            if self.healthy():
                self.node_up()
            else:
                self._stop()
                self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._use is not None
        with _locked("start.lock"):
            self._use.close()
            if _free("users.lock"):
                self._stop()

    def _start(self) -> None:
        reason = unavailable()
        if reason:
            raise RuntimeError(reason)
        for folder in ("state", "spool", "munge"):
            (RUN / folder).mkdir(parents=True)
        key = RUN / "munge/key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for path in (RUN / "munge", key):
            shutil.chown(path, "munge", "munge")
        names = dict(mark=MARK, name=NAME, host=host(), run=RUN, cpus=CPUS, memory=MEMORY_MB, gpus=len(GPUS))
        devices = ",".join(GPUS)
        ETC.mkdir(exist_ok=True)
        (ETC / "slurm.conf").write_text(CONF.format(**names))
        (ETC / "gres.conf").write_text(f"{MARK}\nNodeName={host()} Name=gpu File={devices}\n")
        (ETC / "cgroup.conf").write_text(f"{MARK}\n")
        munge = [f"--{name}-file={RUN}/munge/{name}" for name in ("key", "pid", "log", "seed")]
        munge.append(f"--socket={RUN}/munge/socket")
        try:
            _spawn("munged", "--foreground", *munge, user="munge")
            until((RUN / "munge/socket").exists, 10, "munged opens its socket")
            _spawn("slurmctld", "-D", "-L", f"{RUN}/slurmctld.log")
            _spawn("slurmd", "-D", "-L", f"{RUN}/slurmd.log")
            until(self.idle, 30, "the node is idle")
        except BaseException as error:
            error.add_note(logs())
            self._stop()
            raise

    def _stop(self) -> None:
        _end([pid for pid, program in _daemons().items() if program in DAEMONS], signal.SIGTERM)
        # More than once: a process may start another one meanwhile.
        for _ in range(5):
            if left := [*_daemons(), *_job_processes()]:
                _end(left, signal.SIGKILL)
        for name in CONFS:
            if _is_ours(ETC / name):
                (ETC / name).unlink()
        shutil.rmtree(RUN, ignore_errors=True)

    def healthy(self) -> bool:
        """Whether all daemons run and answer; the node may be down."""
        state = self.node_state()
        return set(_daemons().values()) >= set(DAEMONS) and state != "" and not state.endswith("*")

    def idle(self) -> bool:
        """Whether the cluster answers and its node takes jobs."""
        return self.node_state() in ("idle", "mixed", "allocated", "completing")

    def node_state(self) -> str:
        """State of the node as sinfo says it; empty when nobody answers."""
        if not _is_ours(ETC / "slurm.conf"):
            return ""
        command = [_program("sinfo"), "--noheader", "--Node", "--partition=cpu", "--format=%T"]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    def run(self, *command: str, seconds: float = 60) -> str:
        """What a command of SLURM prints; an error where it fails."""
        result = subprocess.run(
            [_program(command[0]), *command[1:]], capture_output=True, text=True, timeout=seconds
        )
        if result.returncode:
            raise subprocess.SubprocessError(f"{' '.join(command)}: {result.stderr.strip()}")
        return result.stdout

    def submit(self, script: str, *options: str, workdir: Path | None = None) -> str:
        """Submit a shell script of one or more lines; the id of the job."""
        options = (f"--chdir={workdir or RUN}", "--output=%j.log", *options)
        return self.run("sbatch", "--parsable", *options, f"--wrap={script}").strip()

    def jobs(self) -> list[Job]:
        """All jobs that the controller remembers, those that ended within five minutes too."""
        line = "\x1f".join(("%i", "%T", "%j", "%k", "%Z", "%P"))
        said = self.run("squeue", "--states=all", "--array", "--noheader", f"--format={line}")
        # A job without a comment has the comment (null).
        return [Job(*one.replace("(null)", "").split("\x1f")) for one in said.splitlines()]

    def state(self, job: str) -> str:
        """State of one job, such as RUNNING."""
        return self.show(job)["JobState"]

    def show(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says about a job: Restarts, Reason, ExitCode, Comment, ..."""
        said = self.run("scontrol", "--oneliner", "show", "job", job)
        return dict(re.findall(r"(\S+?)=(.*?)(?=\s+\S+?=|\s*$)", said))

    def wait(self, job: str, *states: str, seconds: float = 30) -> str:
        """Wait until a job is in one of some states; the state."""
        until(lambda: self.state(job) in states, seconds, f"job {job} is {' or '.join(states)}")
        return self.state(job)

    def processes(self, job: str, part: str = "") -> list[int]:
        """Processes of a job, only those with a text in their command line where one is given."""
        found = _job_processes(job)
        return [pid for pid in found if part in _read(pid, "cmdline").replace("\0", " ")]

    def cancel(self, *jobs: str) -> None:
        """Cancel jobs."""
        self.run("scancel", *jobs)

    def expire(self, job: str) -> None:
        """Let the time limit of a running job be over: SLURM kills it within half a minute."""
        self.run("scontrol", "update", f"JobId={job}", "EndTime=now")

    def clear(self, seconds: float = 30) -> None:
        """Cancel all jobs, wait until they are gone and give the node back."""
        for job in self.jobs():
            if job.state in ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING"):
                with contextlib.suppress(subprocess.SubprocessError):  # ended meanwhile
                    self.cancel(job.id)
        self.node_up()
        until(lambda: not self.run("squeue", "--noheader"), seconds, "the jobs are gone")

    def node_down(self) -> None:
        """Take the node from the cluster, as when it crashes."""
        self.run("scontrol", "update", f"NodeName={host()}", "State=DOWN", "Reason=test")

    def node_up(self) -> None:
        """Give the node back, where it is away, and wait until it takes jobs."""
        if self.idle():
            return
        with contextlib.suppress(subprocess.SubprocessError):  # it may be back by itself
            self.run("scontrol", "update", f"NodeName={host()}", "State=RESUME")
        until(self.idle, 30, "the node is back")


def until(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something holds; an error where it does not in time."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)


def logs(lines: int = 25) -> str:
    """The ends of the daemons' logs."""
    texts = []
    for path in sorted([*RUN.glob("*.log"), *RUN.glob("*.err")]):
        tail = path.read_text(errors="replace").splitlines()[-lines:]
        texts += [f"== {path.name}", *tail]
    return "\n".join(texts)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold the cluster for the tests of one file: others that ask for it wait."""
    with _locked("tests.lock"):
        yield


@contextlib.contextmanager
def _locked(name: str, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / name).open("a") as file:
        fcntl.flock(file, how)
        yield


def _free(name: str) -> bool:
    try:
        with _locked(name, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _program(name: str) -> str:
    return shutil.which(name, path=_path()) or name


def _spawn(name: str, *arguments: str, user: str | None = None) -> None:
    """Start a daemon that outlives this process; what it prints goes to a file."""
    with (RUN / f"{name}.err").open("wb") as file:
        subprocess.Popen(
            [_program(name), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
            cwd="/",
            user=user,
            group=user,
            # Jobs see nothing of the Python that started the cluster.
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )


def _is_ours(conf: Path) -> bool:
    return conf.is_file() and conf.read_text(errors="replace").startswith(MARK)


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:  # ended meanwhile
        return ""


def _alive() -> Iterable[int]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            pid = int(path.name)
            state = re.search(r"^State:\s+(\w)", _read(pid, "status"), re.MULTILINE)
            if state and state[1] not in "ZX":
                yield pid


def _programs() -> list[tuple[int, str]]:
    """Processes of munge and SLURM, whoever started them."""
    named = [(pid, _read(pid, "comm").strip()) for pid in _alive()]
    return [one for one in named if one[1] in (*DAEMONS, "slurmstepd", "slurmscriptd", "srun")]


def _daemons() -> dict[int, str]:
    """Those of them that are ours: they write to the cluster's folder."""
    found = {}
    for pid, program in _programs():
        files = [_read(pid, "cmdline")]
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    files.append(str(link.readlink()))
        if any(str(RUN) in file for file in files):
            found[pid] = program
    return found


def _job_processes(job: str = "") -> list[int]:
    """Processes of a job or of all jobs."""
    found = []
    for pid in _alive():
        if pid == os.getpid():
            continue
        variables = _read(pid, "environ").split("\0")
        if f"SLURM_CLUSTER_NAME={NAME}" in variables and (not job or f"SLURM_JOB_ID={job}" in variables):
            found.append(pid)
    return found


def _end(pids: list[int], sign: signal.Signals) -> None:
    """Send a signal to processes and wait until they are gone, some seconds at most."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
    with contextlib.suppress(TimeoutError):
        until(lambda: not set(pids) & set(_alive()), 5, "processes end")
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
