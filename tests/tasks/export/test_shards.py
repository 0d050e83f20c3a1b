"""WebDataset shards: read by webdataset itself, the same bytes each time, no larger than asked."""

import errno
import gc
import tarfile
from pathlib import Path
from typing import Any, cast

import pytest
from webdataset.compat import WebDataset

from tasks.export.samples import HoldOutConfig
from tasks.export.shards import STEP, ShardsConfig, group_into_shards, write_shards
from tasks.ledger import mark
from tasks.manifest import digest_file, read_rows
from tests.declared import declared

MANY = [{"caption": f"clip {number}"} for number in range(12)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its shards open.
def test_webdataset_reads_every_sample_with_its_caption_and_facts(films, tmp_path: Path):
    out = tmp_path / "out"
    write_shards.fn(out, ShardsConfig(max_samples=5), films.root, films.samples(out, MANY, HoldOutConfig(test=0.4)))
    names = sorted(path.as_posix() for path in out.glob("*.tar"))
    assert [Path(name).name for name in names] == [
        "test-000000.tar",
        "train-000000.tar",
        "train-000001.tar",
        "train-000002.tar",
    ]
    loaded: list[Any] = list(cast(Any, WebDataset(names, shardshuffle=False)).decode())
    assert {sample["txt"] for sample in loaded} == {clip["caption"] for clip in MANY}
    for sample in loaded:
        clip = films.root / "clips" / f"{sample['__key__']}.mp4"
        assert sample["mp4"] == clip.read_bytes()
        assert sample["json"]["clip_id"] == sample["__key__"]
        assert sample["json"]["caption"] == sample["txt"]
    gc.collect()


def test_the_same_samples_give_the_same_bytes(films, tmp_path: Path, contents):
    for name in "ab":
        out = tmp_path / name
        write_shards.fn(out, ShardsConfig(max_samples=5), films.root, films.samples(out, MANY))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    with tarfile.open(next((tmp_path / "a").glob("*.tar"))) as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}


def test_no_shard_is_larger_than_asked(films, tmp_path: Path):
    out = tmp_path / "out"
    ref = write_shards.fn(out, ShardsConfig(max_mb=0.02), films.root, films.samples(out, MANY))
    rows = read_rows(ref)
    assert sum(row["samples"] for row in rows) == 12
    assert len(rows) > 2
    for row in rows:
        path = out / row["shard"]
        assert path.stat().st_size == row["bytes"] <= 20_000
        assert row["sha256"] == digest_file(path)


def test_a_clip_that_is_gone_and_one_with_another_byte_are_a_row_each_and_the_others_are_written(films, tmp_path: Path):
    out = tmp_path / "out"
    samples = films.samples(out, MANY, HoldOutConfig(validation=0.0, test=0.0))
    gone, changed = (films.root / read_rows(samples)[number]["video"] for number in (3, 7))
    gone.unlink()
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    rows = read_rows(write_shards.fn(out, ShardsConfig(max_samples=1), films.root, samples))
    whole, failed = [row for row in rows if row["shard"]], [row for row in rows if not row["shard"]]
    assert (len(whole), {row["samples"] for row in whole}) == (10, {1})
    assert sorted(path.name for path in out.glob("*.tar")) == sorted(row["shard"] for row in whole)
    assert {(row["side"], row["samples"], row["attempt"]) for row in failed} == {("train", 0, 1)}
    said = sorted((row["error_code"], row["error_message"]) for row in failed)
    assert said == [
        (
            "bad_media",
            f"clips/{changed.name}: has other bytes than were cut. `reelmill retry` on the export cuts it again.",
        ),
        ("exporting_failed", f"{gone.stem}: exporting failed ([Errno 2] No such file or directory: '{gone}')."),
    ]
    (shared,) = {row["samples"] for row in read_rows(write_shards.fn(out, ShardsConfig(), films.root, samples))} - {0}
    assert shared == 10


def test_a_sample_that_is_larger_than_a_shard_has_one_of_its_own():
    sizes = (100, 5_000_000, 100)
    samples = [{"clip_id": str(n), "bytes": size, "facts": "{}", "caption": None} for n, size in enumerate(sizes)]
    shards = group_into_shards(samples, ShardsConfig(max_mb=1))
    assert [5_000_000] in [[sample["bytes"] for sample in shard] for shard in shards]
    assert sum(map(len, shards)) == 3


def test_a_second_run_writes_nothing_and_a_lost_shard_is_written_again(films, tmp_path: Path, contents):
    out = tmp_path / "out"
    samples = films.samples(out, MANY)
    first = write_shards.fn(out, ShardsConfig(max_samples=5), films.root, samples)
    before = contents(out)
    assert write_shards.fn(out, ShardsConfig(max_samples=5), films.root, samples).cached
    next(out.glob("*.tar")).unlink()
    again = write_shards.fn(out, ShardsConfig(max_samples=5), films.root, samples)
    assert (again.cached, again.digest, contents(out)) == (False, first.digest, before)


def test_other_settings_replace_the_shards_and_going_back_makes_the_first_again(films, tmp_path: Path, contents):
    out = tmp_path / "out"
    samples = films.samples(out, MANY)
    (out / "notes.tar").write_bytes(b"not ours")
    write_shards.fn(out, ShardsConfig(max_samples=2), films.root, samples)
    before = contents(out)
    write_shards.fn(out, ShardsConfig(max_samples=50), films.root, samples)
    assert len(contents(out)) < len(before)
    assert not write_shards.fn(out, ShardsConfig(max_samples=2), films.root, samples).cached
    assert contents(out) == before


def test_shards_of_others_stay_though_their_names_are_those_of_its_own(films, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    mark(out, "export", "1")
    (out / "train-000777.tar").write_bytes(b"mine")
    write_shards.fn(out, ShardsConfig(max_samples=2), films.root, films.samples(out, MANY))
    many = len(list(out.glob("*.tar")))
    write_shards.fn(out, ShardsConfig(max_samples=50), films.root, films.samples(out, MANY))
    assert len(list(out.glob("*.tar"))) < many, "its own go, that of another stays"
    assert (out / "train-000777.tar").read_bytes() == b"mine"


def test_a_run_that_is_ended_while_writing_leaves_no_manifest_and_no_half_shard(
    films, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    samples = films.samples(out, MANY)
    write_shards.fn(out, ShardsConfig(max_samples=2), films.root, samples)
    room = iter(range(10))

    def add(*_: object) -> None:
        if next(room, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full, pytest.raises(OSError, match="No space left"):
        full.setattr(tarfile.TarFile, "addfile", add)
        write_shards.fn(out, ShardsConfig(max_samples=3), films.root, samples)
    assert list((out / "manifests" / "shards").iterdir()) == []
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            assert len(tar.getnames()) % 3 == 0


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(ShardsConfig) == {
        "": "frozen=True, extra='forbid'",
        "max_mb": "1000.0, gt=0",
        "max_samples": "10000, ge=1",
    }


def test_the_step_goes_by_its_name_and_answers_for_the_files_it_writes():
    assert write_shards.name == "shards"
    assert STEP.files == ("shard",)
