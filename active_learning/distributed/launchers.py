"""How the processes of a run find each other: by flags, by variables, or through a launcher."""

import glob
import importlib.util
import os
import re
import urllib.error
import urllib.request

import jax

from active_learning.config import ConfigError
from active_learning.metrics import StorageError

ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_COUNTS = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_RANKS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "JOB_COMPLETION_INDEX")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")


def start(
    coordinator: str | None = None,
    count: int | None = None,
    number: int | None = None,
    mode: str = "auto",
) -> None:
    """Joins the processes of a run; must come before anything is computed.

    Args:
      coordinator: HOST:PORT of the first process; else $JAX_COORDINATOR_ADDRESS.
      count: How many processes there are; else $JAX_NUM_PROCESSES or the launcher's count.
      number: Which of them this is; else $JAX_PROCESS_ID or the launcher's number.
      mode: "auto" joins what the arguments, the environment or a launcher (SLURM, Open MPI, a TPU
        pod, Kubernetes) describe, and is a single process without any; "off" is always a single
        process; HOST:PORT is the coordinator's address.

    Raises:
      ConfigError: Something is missing, or is not a number.
      StorageError: The others cannot be reached.
    """
    given = coordinator is not None or count is not None or number is not None
    if mode == "off":
        if given:
            raise ConfigError(
                "--distributed=off and --coordinator, --num_processes or --process_id"
            )
        return
    if mode != "auto":
        if not re.fullmatch(r"\S+:\d{1,5}", mode):
            raise ConfigError(f"--distributed={mode}: expected off, auto or HOST:PORT")
        if coordinator not in (None, mode):
            raise ConfigError(
                f"--distributed={mode}: --coordinator={coordinator} is another address"
            )
        coordinator = mode
    coordinator = coordinator or _variable(ENVIRONMENT[0])
    if (
        coordinator is None
        and count is None
        and number is None
        and _variable(ENVIRONMENT[1]) is None
    ):
        if (method := _launcher()) is not None:
            _join(f"of {method}", cluster_detection_method=method)
        return
    count = _first_number(ENVIRONMENT[1], *_COUNTS) if count is None else count
    number = _first_number(ENVIRONMENT[2], *_RANKS) if number is None else number
    if coordinator is None or count is None or number is None:
        values = (coordinator, count, number)
        names = ("--coordinator=HOST:PORT", "--num_processes", "--process_id")
        missing = [name for name, value in zip(names, values, strict=True) if value is None]
        raise ConfigError(
            f"several processes need {', '.join(names)}; missing: {', '.join(missing)}"
        )
    if not 0 <= number < count:
        raise ConfigError(
            f"--process_id={number}: expected 0 .. {count - 1}, one less than --num_processes"
        )
    # Cluster detection is off: each process takes all devices that it sees.
    _join(f"at {coordinator}", coordinator, count, number, cluster_detection_method="deactivate")


def _join(where: str, *values, **options) -> None:
    try:
        jax.distributed.initialize(*values, **options)
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StorageError(f"cannot join the other processes {where}: {reason}") from error


def _variable(name: str) -> str | None:
    """An environment variable; None where it is unset or empty, as left over by some launchers."""
    return os.environ.get(name, "").strip() or None


def _number(name: str) -> int | None:
    if (text := _variable(name)) is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise ConfigError(f"{name}={text!r}: expected a number") from error


def _first_number(*names: str) -> int | None:
    return next((value for name in names if (value := _number(name)) is not None), None)


def _launcher() -> str | None:
    """JAX's name of the launcher that has started several processes, if there is one."""
    # Without srun (in a batch script or salloc's shell) a step's variables are missing or empty.
    if all(_variable(name) for name in _SLURM) and (_first_number(*_COUNTS[:2]) or 1) > 1:
        return "slurm"
    if (_number("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        if _variable("OMPI_MCA_orte_hnp_uri") is None:
            raise ConfigError(
                "Open MPI 5 does not tell the address of the first process: "
                "give --distributed=HOST:PORT, or off for separate runs"
            )
        return "ompi"
    if any("," in (_variable(n) or "") for n in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")):
        return "gketpu"
    if _in_tpu_pod():
        return "gcetpu"
    if _variable("KUBERNETES_SERVICE_HOST") and _variable("JOB_COMPLETION_INDEX"):
        # The number of pods is known to the cluster only; JAX asks it by this package. Without it,
        # indexed pods are separate runs unless JAX_COORDINATOR_ADDRESS says otherwise.
        return "k8s" if importlib.util.find_spec("kubernetes") else None
    return None


def _in_tpu_pod() -> bool:
    """Whether this is one of several hosts of a TPU slice that Compute Engine has started.

    Such hosts carry no variables; the metadata server names all of them.
    """
    if not importlib.util.find_spec("libtpu") or not (
        glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    ):
        return False
    if _variable("TPU_SKIP_MDS_QUERY"):
        return False
    server = _variable("GCE_METADATA_IP") or "metadata.google.internal"
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/worker-network-endpoints",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return b"," in response.read(1 << 20)
    except (OSError, urllib.error.URLError):
        return False
