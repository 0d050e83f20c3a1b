"""One run at a time on a GPU, whichever flows ask for it, and none where the server has no limit for it."""

import threading
import time

import pytest
from prefect.client.orchestration import get_client

from flows.curate import CurateConfig
from flows.finetune import FinetuneConfig
from flows.generate import GenerateConfig
from flows.pipeline import PipelineConfig
from flows.running import gpu_limit
from flows.running.config import FlowConfig, Outcome
from flows.running.gpu_limit import hold_gpu, name_limit
from flows.running.told import told_flow
from flows.serving.set_up import make_limits
from models.errors import BadInput

at_work: list[tuple[str, float, float]] = []


class OnGpu(FlowConfig):
    """A config that says it works on a GPU."""

    name: str = "a"

    @property
    def gpu(self) -> int | None:
        return 7


@told_flow(name="on gpu")
def work(config: OnGpu) -> Outcome:
    began = time.monotonic()
    with hold_gpu(7):  # As a flow inside another one: it shares what its caller holds.
        time.sleep(0.5)
    at_work.append((config.name, began, time.monotonic()))
    return Outcome()


@pytest.mark.usefixtures("prefect_server")
def test_two_runs_for_one_gpu_are_never_both_at_work():
    with get_client(sync_client=True) as client:
        make_limits(client, [name_limit(7)])
        make_limits(client, [name_limit(7)])
        assert [each.limit for each in client.read_global_concurrency_limits() if each.name == name_limit(7)] == [1]
    threads = [threading.Thread(target=lambda name=name: work(OnGpu(name=name))) for name in ("a", "b")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    (_, _, end), (_, begin, _) = sorted(at_work, key=lambda each: each[1])
    assert {name for name, *_ in at_work} == {"a", "b"}
    assert end <= begin


@pytest.mark.usefixtures("prefect_server")
def test_a_gpu_without_a_limit_is_refused_to_a_deployments_run_and_no_obstacle_to_a_command():
    with pytest.raises(BadInput, match="the server has no limit for this GPU"), gpu_limit._place("gpu-none-1", True):
        pass
    with gpu_limit._place("gpu-none-1", False):
        pass


def test_a_gpu_is_named_by_host_and_by_its_own_number(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Studio")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert name_limit(1) == "gpu-studio-1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert name_limit(1) == "gpu-studio-5"


def test_every_flow_with_networks_says_which_device_they_work_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("models.device.find_gpu", {"auto": 0, "cuda:2": 2}.get)
    facts = {"sources": ["a"], "dataset": "d", "jobs": "j", "out": "o"}

    def gpu_of(config: type[FlowConfig], **more: str) -> int | None:
        return config.model_validate({n: v for n, v in facts.items() if n in config.model_fields} | more).gpu

    assert [gpu_of(config) for config in (FinetuneConfig, GenerateConfig, PipelineConfig)] == [0, 0, 0]
    assert gpu_of(GenerateConfig, device="cuda:2") == 2
    assert gpu_of(GenerateConfig, device="cpu") is None
    assert gpu_of(CurateConfig) is None
    assert gpu_of(CurateConfig, preset="svd") == 0
