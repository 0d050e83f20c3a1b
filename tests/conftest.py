"""What all tests share: a Prefect home of their own, a Prefect server for those that ask, no network, marks."""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from flows.command.prefect_server import settle_environment, start
from tasks.stopping import forget_to_stop

_HOME = tempfile.TemporaryDirectory(prefix="reelmill-prefect-", ignore_cleanup_errors=True)
_PORT = socket.socket()
_PORT.bind(("127.0.0.1", 0))

# No test depends on how fast the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Before anything imports Prefect. The port answers only in tests that ask for the server: without it, a flow fails at
# once instead of starting a server of its own.
for name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[name]
os.environ["PREFECT_HOME"] = _HOME.name
os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{_PORT.getsockname()[1]}/api"
os.environ["XDG_STATE_HOME"] = f"{_HOME.name}/state"
os.environ["HF_HUB_OFFLINE"] = "1"
# The tests share the cores among processes: threads in each would wait for one another, and sums would depend on them.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ[name] = "1"
settle_environment()

NEEDS = {"prefect_server": "server", "browser": "browser", "train": "training"}
"""The mark of the tests that use a fixture, directly or through another one."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test by what its fixtures need, before marks choose the tests, and put the longest files first."""
    for item in items:
        for fixture in NEEDS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(NEEDS[fixture])
    long = {item.path for item in items if item.get_closest_marker("server") or item.get_closest_marker("training")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def prefect_server() -> str:
    """The address of a Prefect server that ends with the tests."""
    _PORT.listen()
    start(_PORT)
    _PORT.close()
    return os.environ["PREFECT_API_URL"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random model of Stable Video Diffusion's shape: 4 frames of 32x32, two motions known by name."""
    import torch

    from models.svd.autoencoder import new_autoencoder
    from models.svd.image_encoder import new_feature_extractor, new_image_encoder
    from models.svd.model import ModelFacts, VideoModel, save_model
    from tasks.tiny.encoders import make_scheduler
    from tests.small_svd import make_small_unet

    folder = tmp_path_factory.mktemp("models") / "small"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = VideoModel(
            unet=make_small_unet(),
            vae=new_autoencoder((32, 32, 32)),
            image_encoder=new_image_encoder(),
            feature_extractor=new_feature_extractor(),
            scheduler=make_scheduler(),
            words={"pan_left": torch.randn(64), "static": torch.randn(64)},
            facts=ModelFacts(frames=4, width=32, height=32, lineage={"dataset": "rendered"}),
            revision="",
        )
    save_model(made, folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to anywhere but this machine fails."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"Tests use no network, not even {host}.")
        connect(self, address)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(autouse=True)
def _own_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What models are measured to take, and which folders are the user's, is kept apart from the user's notes, and from
    other tests'."""
    own = Path(_HOME.name) / "users" / uuid4().hex
    monkeypatch.setenv("XDG_CACHE_HOME", str(own / "caches"))
    monkeypatch.setenv("XDG_STATE_HOME", str(own / "state"))


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Commands that run in a test log to what stands for the terminal there, which is closed after it."""
    log = logging.getLogger("reelmill")
    before, level = list(log.handlers), log.level
    yield
    log.handlers[:] = before
    log.setLevel(level)


@pytest.fixture(autouse=True)
def _own_stop() -> Iterator[None]:
    """A test that stops a run stops no other."""
    yield
    forget_to_stop()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub: tests/hub_cache.py puts models there."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[1]
