"""Settings that nobody gave here are data: they send nothing, and read nothing that their writer cannot know."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.command.folders import ResultsConfig, retry
from flows.command.foreign_settings import take_as_data
from flows.curate import CurateConfig
from flows.export import ExportConfig
from flows.generate import GenerateConfig
from models.errors import BadInput
from tasks.manifest import Lineage, write_manifest


def record(folder: Path, **row: Any) -> dict[str, Any]:
    """Write a table of one source, by default a film with the letter A that is still there; return its row."""
    film = folder.parent / "films/a.mp4"
    film.parent.mkdir(exist_ok=True)
    film.write_text("A")
    known = {"source": str(film), "path": str(film), "digest": hashlib.sha256(b"A").hexdigest(), "further": None}
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist([known | row]), folder / "videos.parquet")
    return known | row


def test_sources_become_the_files_that_were_curated(tmp_path: Path):
    row = record(tmp_path / "out")
    config = CurateConfig(sources=("/home", "/etc"), out=tmp_path / "out")
    assert take_as_data(tmp_path / "out", "curate", config) == config.model_copy(update={"sources": (row["source"],)})


@pytest.mark.parametrize(
    "row",
    [
        {"digest": hashlib.sha256(b"B").hexdigest()},
        {"source": "https://there/a.mp4"},
        {"source": "https://there/a.mp4", "path": "sources/a.mp4"},
        {"path": "/nowhere/a.mp4"},
        {"path": None},
        {"further": '{"license": "CC0"}'},
    ],
)
def test_a_source_that_is_not_as_it_was_curated_is_named(tmp_path: Path, row: dict[str, Any]):
    source = record(tmp_path / "out", **row)["source"]
    with pytest.raises(BadInput, match=r"were not given by you on this machine, and they name .*a\.mp4") as refused:
        take_as_data(tmp_path / "out", "curate", CurateConfig(sources=("x",), out=tmp_path / "out"))
    assert source in str(refused.value)
    assert f"`reelmill curate --config {tmp_path}/out/curate.yaml --out {tmp_path}/out`" in str(refused.value)


def test_without_a_table_of_sources_none_is_read(tmp_path: Path):
    with pytest.raises(BadInput, match="they name sources"):
        take_as_data(tmp_path, "curate", CurateConfig(sources=("x",), out=tmp_path))


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ({"image_engine": "endpoint", "image_model": "m", "endpoint": {"base_url": "http://there/v1"}}, "http://there"),
        ({"image_engine": "transformers", "image_model": "/models/blip"}, "/models/blip"),
    ],
)
def test_servers_and_models_outside_are_refused(tmp_path: Path, caption: dict[str, Any], named: str):
    record(tmp_path / "out")
    config = CurateConfig.model_validate({"sources": ("x",), "out": tmp_path / "out", "caption": caption})
    with pytest.raises(BadInput, match=f"they name (the server )?{named}"):
        take_as_data(tmp_path / "out", "curate", config)


def test_what_a_setting_names_is_not_given_by_standing_among_the_sources(tmp_path: Path):
    record(tmp_path / "out")
    server = {"image_engine": "endpoint", "image_model": "m", "endpoint": {"base_url": "http://there", "key_env": "K"}}
    network = {"image_engine": "transformers", "image_model": "/models/blip"}
    for caption, sources in (
        (server, ("the server http://there", "the server http://there/", "the key K")),
        (network, ("/models/blip",)),
    ):
        config = CurateConfig.model_validate({"sources": sources, "out": tmp_path / "out", "caption": caption})
        with pytest.raises(BadInput, match=r"they name (the server http|/models/blip)"):
            take_as_data(tmp_path / "out", "curate", config)


def test_pictures_and_datasets_outside_are_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="they name /home/pictures"):
        take_as_data(tmp_path, "generate", GenerateConfig(jobs=Path("/home/pictures"), out=tmp_path))
    with pytest.raises(BadInput, match="they name /data"):
        take_as_data(tmp_path, "export", ExportConfig(dataset=Path("/data"), out=tmp_path))


def test_a_retry_of_a_strangers_folder_asks_no_server_and_leaves_its_failures(tmp_path: Path):
    record(tmp_path)
    (tmp_path / "curate.yaml").write_text(
        "sources: [a]\nout: x\n"
        "caption: {image_engine: endpoint, image_model: m, endpoint: {base_url: 'http://there/v1', key_env: KEY}}\n"
    )
    failed = tmp_path / "manifests/scan/k.parquet"
    write_manifest(failed, pa.table({"error_code": ["bad_media"], "attempt": [1]}), Lineage(step="scan", version=1))
    with pytest.raises(BadInput, match="they name the server http://there/v1"):
        retry(ResultsConfig(path=tmp_path))
    assert failed.is_file()
