"""Hugging Face's local cache as `hf download` leaves it, made from folders that are at hand."""

import shutil
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, model: Path, name: str, commit: str = COMMIT) -> Path:
    """A model as `hf download NAME` of its `main` leaves it: the folder of its snapshot."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return Path(shutil.copytree(model, folder / "snapshots" / commit))
