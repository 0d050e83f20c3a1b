"""Models kept in memory: handed out again while their files are the same, and no longer."""

import os
import threading
import time
from pathlib import Path

from models.weights.kept import kept_in_memory


def test_a_model_is_loaded_once_while_its_file_is_the_same(tmp_path: Path):
    loads: list[str] = []

    @kept_in_memory()
    def load(path: Path, mark: str = "") -> object:
        loads.append(path.name + mark)
        return object()

    file = tmp_path / "a.safetensors"
    file.write_bytes(b"1")
    first = load(file)
    assert load(file) is first
    os.utime(file, ns=(1, 1))
    assert load(file) is not first
    load(file, mark="?")
    assert loads == ["a.safetensors"] * 2 + ["a.safetensors?"]


def test_as_many_models_stay_as_are_asked_for(tmp_path: Path):
    loads: list[str] = []

    @kept_in_memory(most=2)
    def load(path: Path) -> object:
        loads.append(path.name)
        return object()

    for name in "abc":
        (tmp_path / name).touch()
    for name in "abacab":
        load(tmp_path / name)
    assert loads == ["a", "b", "c", "b"]


def test_threads_that_ask_at_once_get_one_model(tmp_path: Path):
    ready, found = threading.Barrier(2), []

    @kept_in_memory()
    def load(path: Path) -> object:
        time.sleep(0.1)
        return object()

    def ask() -> None:
        ready.wait()
        found.append(load(tmp_path / "a"))

    (tmp_path / "a").touch()
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]
