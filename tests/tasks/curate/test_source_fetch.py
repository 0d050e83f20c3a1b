"""URLs: fetched whole and once, named by content, within limits, and what fails is one sentence."""

import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from models.errors import BadFetch, BadInput, DecodeTimeout
from tasks.curate.source_fetch import FetchConfig, expand_url, fetch, is_url
from tasks.manifest import digest_file, remove_asides
from tests.declared import declared

SUFFIXES = (".mp4",)
CONTENT = bytes(range(256)) * 4000


@dataclass
class Site:
    """A web server on this machine: contents by path, each with its version, and the requests it answered."""

    address: str
    contents: dict[str, bytes] = field(default_factory=dict)
    answers: list[tuple[str, int]] = field(default_factory=list)
    pause_s: float = 0.0
    promised: int = 0


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = site.contents.get(self.path)
            tag = f'"{hash(content)}"'
            code = 404 if content is None else 304 if self.headers.get("If-None-Match") == tag else 200
            site.answers.append((self.path, code))
            self.send_response(code)
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(content or b"") + site.promised if code == 200 else 0))
            self.end_headers()
            if code == 200:
                self.wfile.write(content or b"")
                self.wfile.flush()
                time.sleep(site.pause_s)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def bucket() -> Iterator[fsspec.AbstractFileSystem]:
    """An object store in this process's memory."""
    system = fsspec.filesystem("memory")
    for name in ("films/a.mp4", "films/deep/b.mp4", "films/notes.txt"):
        system.pipe(f"/bucket/{name}", CONTENT + name.encode())
    yield system
    system.rm("/bucket", recursive=True)


def left_over(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")] if folder.exists() else []


@pytest.mark.parametrize("source", ["http://a/b.mp4", "s3://b/c", "memory://x", "zip://a.mp4::file:///b.zip"])
def test_a_url_is_told_from_a_path(source: str):
    assert is_url(source)
    assert not is_url(f"/films/{source.replace('://', ':')}")


def test_a_file_on_the_web_is_fetched_once_and_named_by_its_content(site: Site, tmp_path: Path):
    site.contents["/films/a.mp4"] = CONTENT
    first = fetch(f"{site.address}/films/a.mp4", tmp_path, FetchConfig())
    assert first.read_bytes() == CONTENT
    assert first.name == f"{digest_file(first)[:32]}.mp4"
    assert fetch(f"{site.address}/films/a.mp4", tmp_path, FetchConfig()) == first
    assert site.answers == [("/films/a.mp4", 200), ("/films/a.mp4", 304)]
    assert left_over(tmp_path) == []


def test_a_changed_file_on_the_web_is_fetched_again(site: Site, tmp_path: Path):
    site.contents["/a.mp4"] = CONTENT
    first = fetch(f"{site.address}/a.mp4", tmp_path, FetchConfig())
    site.contents["/a.mp4"] = CONTENT[1:]
    second = fetch(f"{site.address}/a.mp4", tmp_path, FetchConfig())
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, CONTENT[1:])


def test_a_copy_that_was_deleted_is_fetched_again(site: Site, tmp_path: Path):
    site.contents["/a.mp4"] = CONTENT
    fetch(f"{site.address}/a.mp4", tmp_path, FetchConfig()).unlink()
    assert fetch(f"{site.address}/a.mp4", tmp_path, FetchConfig()).read_bytes() == CONTENT


def test_two_addresses_of_one_content_share_a_file(site: Site, tmp_path: Path):
    site.contents |= {"/a.mp4": CONTENT, "/b.mp4": CONTENT}
    assert len({fetch(f"{site.address}/{name}.mp4", tmp_path, FetchConfig()) for name in "ab"}) == 1


def test_what_is_not_there_is_one_sentence(site: Site, tmp_path: Path):
    with pytest.raises(BadFetch, match=r"/gone\.mp4: the server answers 404 Not Found"):
        fetch(f"{site.address}/gone.mp4", tmp_path, FetchConfig())
    with pytest.raises(BadFetch, match="cannot be fetched"):
        fetch("http://127.0.0.1:9/a.mp4", tmp_path, FetchConfig())
    with pytest.raises(BadFetch, match="cannot be fetched"):
        fetch("nosuchscheme://a/b.mp4", tmp_path, FetchConfig())
    assert left_over(tmp_path) == []


def test_a_server_that_is_gone_leaves_the_copy_in_use(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    site.contents["/a.mp4"] = CONTENT
    first = fetch(f"{site.address}/a.mp4", tmp_path, FetchConfig())
    del site.contents["/a.mp4"]
    assert fetch(f"{site.address}/a.mp4", tmp_path, FetchConfig()) == first
    assert "Using the copy fetched before." in caplog.text


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(site: Site, tmp_path: Path):
    site.contents["/a.mp4"] = CONTENT
    with pytest.raises(BadFetch, match=r"is larger than 0\.0005 GB"):
        fetch(f"{site.address}/a.mp4", tmp_path, FetchConfig(limit_gb=0.0005))
    assert list(tmp_path.rglob("*.mp4")) == left_over(tmp_path) == []


def test_a_download_that_breaks_off_is_no_file(site: Site, tmp_path: Path):
    site.contents["/a.mp4"], site.promised = CONTENT, 1000
    with pytest.raises(BadFetch, match="cannot be fetched"):
        fetch(f"{site.address}/a.mp4", tmp_path, FetchConfig())
    assert list(tmp_path.rglob("*.mp4")) == left_over(tmp_path) == []


def test_a_download_that_hangs_is_given_up(site: Site, tmp_path: Path):
    site.contents["/a.mp4"], site.promised, site.pause_s = CONTENT, 1000, 5.0
    with pytest.raises(DecodeTimeout, match=r"/a\.mp4: not done after 0\.5 s"):
        fetch(f"{site.address}/a.mp4", tmp_path, FetchConfig(limit_s=0.5))
    remove_asides(tmp_path)
    assert list(tmp_path.glob("*.mp4")) == [], "what the ended child left is swept by the next run"


def test_folders_and_globs_of_an_object_store_are_listed(bucket: fsspec.AbstractFileSystem):
    both = ["memory:///bucket/films/a.mp4", "memory:///bucket/films/deep/b.mp4"]
    found = [expand_url(f"memory://bucket/films{tail}", SUFFIXES) for tail in ("", "/*.mp4", "/**/*.mp4", "/a.mp4")]
    assert [[url.replace("memory:///", "memory://") for url in urls] for urls in found] == [
        [url.replace("memory:///", "memory://") for url in urls] for urls in (both, both[:1], both, both[:1])
    ]
    with pytest.raises(BadInput, match="no video there"):
        expand_url("memory://bucket/films/*.webm", SUFFIXES)


def test_what_an_object_store_holds_beside_films_is_named(
    bucket: fsspec.AbstractFileSystem, caplog: pytest.LogCaptureFixture
):
    bucket.pipe("/bucket/films/deep/readme.txt", b"x")
    expand_url("memory://bucket/films/deep", SUFFIXES)
    assert "memory://bucket/films/deep: not taken, 1 file: /bucket/films/deep/readme.txt." in caplog.text
    bucket.rm("/bucket/films/deep/b.mp4")
    with pytest.raises(BadInput, match=r"no video there by its name\. Not taken, 1 file: /bucket/films/deep/readme"):
        expand_url("memory://bucket/films/deep", SUFFIXES)


def test_an_object_is_fetched_once(bucket: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = fetch("memory://bucket/films/a.mp4", tmp_path, FetchConfig())
    assert first.read_bytes() == CONTENT + b"films/a.mp4"
    monkeypatch.setattr(type(bucket), "open", None)
    assert fetch("memory://bucket/films/a.mp4", tmp_path, FetchConfig()) == first


def test_file_systems_in_file_systems_are_read(tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(CONTENT)
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.write(tmp_path / "in" / "a.mp4", "a.mp4")
    url = f"zip://a.mp4::file://{tmp_path}/films.zip"
    assert expand_url(url, SUFFIXES) == [url]
    assert fetch(url, tmp_path / "out", FetchConfig()).read_bytes() == CONTENT


def test_an_address_that_cannot_be_asked_is_left_to_the_fetching_unless_it_is_a_pattern():
    assert expand_url("nosuchscheme://a/b.mp4", SUFFIXES) == ["nosuchscheme://a/b.mp4"]
    with pytest.raises(BadInput, match="cannot be listed"):
        expand_url("nosuchscheme://a/*.mp4", SUFFIXES)


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(FetchConfig) == {
        "": "frozen=True, extra='forbid', allow_inf_nan=False",
        "limit_s": "3600.0, gt=0",
        "limit_gb": "50.0, gt=0",
        "at_once": "4, ge=1",
    }
