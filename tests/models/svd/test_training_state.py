"""A state that is sharded over processes is saved whole, and goes on from a whole one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models.svd.training_state import TrainingState, new_state

SHARDED = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from tests.models.svd.test_training_state import make_network, take_steps
from models.svd.training_state import new_state
dist.init_process_group("gloo")
saved, goes_on = Path(sys.argv[1]), sys.argv[2] == "on"
network = make_network(seed=9 if goes_on else 0)
fully_shard(network, mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),)))
state = new_state(dict(network.named_parameters()), 0.9)
if goes_on:
    state.load(saved)
take_steps(network, state, 6 if goes_on else 3)
tensors = state.tensors()
if dist.get_rank() == 0:
    state_file = saved.with_name("sharded.safetensors")
    from safetensors.torch import save_file
    save_file(tensors, state_file)
dist.barrier()
dist.destroy_process_group()
"""


def make_network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def take_steps(network: nn.Module, state: TrainingState, until: int) -> None:
    """Towards the same numbers, whoever asks."""
    seen = torch.linspace(-1, 1, 24).reshape(4, 6)
    while state.step < until:
        state.begin()
        loss: Tensor = (network(seen) - 0.5).square().mean()
        loss.backward()
        state.apply(loss.detach(), 0.01)


@pytest.mark.slow
def test_a_sharded_state_is_saved_whole_and_goes_on_from_a_whole_one(tmp_path: Path, repository: Path):
    """Two processes that each hold half of every tensor, as accelerate's FSDP has them."""
    network = make_network()
    state = new_state(dict(network.named_parameters()), 0.9)
    take_steps(network, state, 3)
    state.save(tmp_path / "whole.safetensors")
    (tmp_path / "work.py").write_text(SHARDED)

    def shard(how: str) -> dict[str, Tensor]:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "work.py")]
        command = [sys.executable, *launch, str(tmp_path / "whole.safetensors"), how]
        environment = {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
        made = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, cwd=repository)
        assert made.returncode == 0, made.stderr[-3000:]
        return load_file(tmp_path / "sharded.safetensors")

    def assert_same(found: dict[str, Tensor]) -> None:
        wanted = state.tensors()
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, atol=1e-5, rtol=1e-4)

    assert_same(shard("anew"))
    take_steps(network, state, 6)
    assert_same(shard("on"))
