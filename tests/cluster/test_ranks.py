from __future__ import annotations

import pytest

from nnunetv2_ext.cluster.ranks import Ranks, find_ranks
from nnunetv2_ext.utilities.errors import UserError

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_JOB_ID": "1234",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[01-02]",
    "SLURM_NTASKS": "4",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Ranks()),
        (TORCHRUN, Ranks(3, 8, 1, 0, "node1", 29500)),
        ({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "2"}, Ranks(3, 8, 1, 2, "node1", 29500)),
        ({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"}, Ranks(3, 8, 1, 0, "node1", 29500, agent_hosts=True)),
        ({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "False"}, Ranks(3, 8, 1, 0, "node1", 29500)),
        # torchrun under Slurm: its ranks are those that count.
        ({**SRUN, **TORCHRUN, "SLURM_RESTART_COUNT": "1"}, Ranks(3, 8, 1, 1, "node1", 29500)),
        (SRUN, Ranks(3, 4, 1, 0, "", 10_000 + 3402, "gpu[01-02]")),
        ({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5000"}, Ranks(3, 4, 1, 0, "10.0.0.1", 5000, "gpu[01-02]")),
        ({**SRUN, "SLURM_RESTART_COUNT": "3"}, Ranks(3, 4, 1, 3, "", 10_000 + 3402, "gpu[01-02]")),
        # A step of one task, as of an array of jobs.
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Ranks()),
        ({"TORCHELASTIC_RESTART_COUNT": "1", "SLURM_RESTART_COUNT": "1"}, Ranks(restarts=2)),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, Ranks()),
    ],
)
def test_the_environment_tells_the_ranks(environment, expected):
    assert find_ranks(environment) == expected


def test_a_batch_script_trains_alone_and_says_so():
    ranks = find_ranks({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "7"})
    assert (ranks.rank, ranks.size) == (0, 1)
    assert ranks.note == (
        "SLURM_NTASKS is 2, but this command is not started by srun, which would start it 2 times: it trains alone."
    )


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "found RANK without LOCAL_RANK; set",
        ),
        ({"RANK": "0"}, "without WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        ({**TORCHRUN, "RANK": "-1"}, "whole number in the variable RANK, but found '-1'"),
        ({**TORCHRUN, "RANK": "8"}, "rank 8, local rank 1, 8 ranks and port 29500"),
        ({**TORCHRUN, "LOCAL_RANK": "9"}, "local rank 9"),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, "port 70000"),
        ({**SRUN, "SLURM_PROCID": ""}, "whole number in the variable SLURM_PROCID, but found ''"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "many"}, "SLURM_STEP_NUM_TASKS, but found 'many'"),
    ],
)
def test_variables_that_do_not_fit_together_are_refused(environment, message):
    with pytest.raises(UserError, match=message):
        find_ranks(environment)
