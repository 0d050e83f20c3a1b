"""One server and one worker for all tests that deploy."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.serving import Served


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that is set up, with a worker."""
    made = Served(tmp_path_factory.mktemp("served"))
    try:
        made.start_server()
        made.set_up()
        made.start_worker()
        yield made
    finally:
        made.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(3):
        values = np.random.default_rng(n).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{n}.png")
    return folder
