"""Which of the processes of a training this one is, as torchrun and srun tell it in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnunetv2_ext.utilities.errors import UserError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SRUN = ("PROCID", "STEP_NUM_TASKS", "LOCALID", "JOB_ID", "STEP_ID")

# Below the ports that Linux gives to whoever asks for any.
_FIRST_PORT, _PORTS = 10_000, 20_000


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Attributes:
        rank: Its number among all.
        size: How many there are.
        local_rank: Its number among those of its machine.
        restarts: How often torchrun or Slurm have started it again.
        address: Host at which the ranks meet; empty where it is the first of ``nodes``.
        port: Port at which they meet.
        nodes: Slurm's expression for the hosts, such as ``gpu[01-04]``.
        agent_hosts: Whether torchrun's agent waits there; otherwise rank 0 does.
        note: What the user should know of it.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    restarts: int = 0
    address: str = ""
    port: int = 0
    nodes: str = ""
    agent_hosts: bool = False
    note: str | None = None


def find_ranks(environment: Mapping[str, str]) -> Ranks:
    """Reads the variables of torchrun (RANK and others) or, where those are not set, of a step of srun.

    A process that neither has started is alone; that of a batch script is, too, although Slurm's SLURM_NTASKS tells it
    of others.

    Raises:
        UserError: The variables are incomplete, or no numbers that fit together.
    """
    restarts = _number(environment, "SLURM_RESTART_COUNT", 0)
    elastic = restarts + _number(environment, "TORCHELASTIC_RESTART_COUNT", 0)
    if "RANK" in environment:
        if missing := [name for name in _TORCHRUN if not environment.get(name, "").strip()]:
            raise UserError(
                f"Expected {', '.join(_TORCHRUN)} together, as torchrun sets them, but found RANK without "
                f"{', '.join(missing)}; set all of them, or unset RANK to train alone."
            )
        rank, size, local_rank, port = (_number(environment, name) for name in (*_TORCHRUN[:3], "MASTER_PORT"))
        agent_hosts = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        address = environment["MASTER_ADDR"].strip()
        return _checked(Ranks(rank, size, local_rank, elastic, address, port, agent_hosts=agent_hosts))
    if _number(environment, "SLURM_STEP_NUM_TASKS", 1) > 1:
        rank, size, local_rank, job, step = (_number(environment, f"SLURM_{name}") for name in _SRUN)
        address, nodes = (environment.get(name, "").strip() for name in ("MASTER_ADDR", "SLURM_STEP_NODELIST"))
        port = _number(environment, "MASTER_PORT", _FIRST_PORT + (100 * job + step) % _PORTS)
        return _checked(Ranks(rank, size, local_rank, restarts, address, port, nodes))
    note, tasks = None, _number(environment, "SLURM_NTASKS", 1)
    if tasks > 1 and "SLURM_STEP_ID" not in environment:
        note = (
            f"SLURM_NTASKS is {tasks}, but this command is not started by srun, which would start it {tasks} times: "
            "it trains alone."
        )
    return Ranks(restarts=elastic, note=note)


def _checked(ranks: Ranks) -> Ranks:
    if not (ranks.rank < ranks.size and ranks.local_rank < ranks.size and ranks.port < 1 << 16):
        raise UserError(
            f"Expected a rank and a local rank below the number of ranks and a port below 65536, but found rank "
            f"{ranks.rank}, local rank {ranks.local_rank}, {ranks.size} ranks and port {ranks.port}; correct the "
            "variables of torchrun or srun."
        )
    return ranks


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "").strip()
    if not text and default is not None:
        return default
    if not text.isdecimal():
        raise UserError(f"Expected a whole number in the variable {name}, but found {text!r}; set it, or unset all.")
    return int(text)
