"""The check on a GPU: the whole script at a tiny size on the CPU, and what it says where there is no GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.train_memory import PLAIN
from models.memory.training_plan import LADDER

FOREIGN = ("prefect", "pyarrow", "av", "cv2", "flows", "tasks", "pandas")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers")
def test_the_script_runs_through_at_a_tiny_size_and_writes_its_page(tmp_path, capsys):
    page = tmp_path / "gpu.md"
    arguments = ["--device", "cpu", "--size", "tiny", "--steps", "1", "--out", str(page)]
    assert gpu.main(arguments) == 0
    text = page.read_text()
    assert text in capsys.readouterr().out
    for way in (*gpu.PLANS, "exact, strips of 1 MiB", "diffusers: decode_chunk_size=2"):
        assert way in text
    assert "out of memory" not in text
    assert "frames within 0 of 255" in text or "frames within 1 of 255" in text
    trained = text[text.index("| training |") :].splitlines()
    for way in (*LADDER, PLAIN):
        (row,) = (line for line in trained if line.startswith((f"| {way} |", f"| ours: {way} |")))
        assert float(row.partition("gradients within ")[2].split()[0]) < 1e-4
    assert torch.get_default_dtype() == torch.float32


def test_without_a_gpu_it_says_so_in_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert gpu.main([]) == 2
    said = capsys.readouterr().err
    assert said == "gpu-check: device cuda: torch sees 0 devices of that kind here. Use cpu, or auto.\n"


def test_too_little_memory_is_a_row_and_the_others_go_on():
    def too_much() -> str:
        raise torch.OutOfMemoryError("CUDA out of memory")

    row = gpu.measure("a way", torch.device("cpu"), too_much)
    assert str(row) == "| a way |  |  | out of memory |"


@pytest.mark.slow
def test_it_needs_few_packages(repository: Path):
    code = f"import benchmarks.gpu, sys; print([name for name in {FOREIGN} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
