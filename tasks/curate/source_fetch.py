"""Sources on other machines: a URL's content is fetched once, into a folder whose files are named by their content.

http and https are read by httpx, because web servers say what has changed (ETag, Last-Modified); every other scheme
(s3, gs, sftp, memory ...) by the fsspec file system of that name. Beside each file is a note of the URL and of the
version that the server named. While the server names the same version, nothing is fetched again.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import fsspec
import httpx
from pydantic import BaseModel, ConfigDict, Field

from models.errors import BadFetch, BadInput
from tasks.child_process import run_in_child
from tasks.left_out import describe_left_out, say_left_out
from tasks.manifest import publish_json

log = logging.getLogger("reelmill")

BLOCK = 1 << 20

SILENCE_S = 30.0
"""Seconds without data after which a web server is given up."""

CONDITIONS = {"etag": "If-None-Match", "last-modified": "If-Modified-Since"}

Note = dict[str, Any]
"""What is kept of a fetched URL: `url`, `file` (a name in the folder) and `version` (what the server calls it)."""


class FetchConfig(BaseModel):
    """How much of the network and the disk one URL may take."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    limit_s: float = Field(default=3600.0, gt=0, description="Time limit for fetching one URL, in seconds.")
    limit_gb: float = Field(default=50.0, gt=0, description="Largest URL that is fetched, in 10^9 bytes.")
    at_once: int = Field(default=4, ge=1, description="URLs fetched at the same time.")


def is_url(source: str) -> bool:
    """Return whether a source is a URL rather than a path."""
    return re.match(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://", source, re.IGNORECASE) is not None


def expand_url(url: str, suffixes: Collection[str]) -> list[str]:
    """Return the URLs of files that `url` means: itself, or the videos of a folder or glob on a file system that can
    list them (the web cannot).

    Raises BadInput when a glob cannot be listed, or no video is there.
    """
    if _is_web(url):
        return [url]
    is_glob = "*" in url
    try:
        system, path = fsspec.core.url_to_fs(url)
        if not is_glob and ("::" in url or not system.isdir(path)):
            return [url]
        found = [str(file) for file in (system.glob(path) if is_glob else system.find(path))]
    except Exception as error:
        if not is_glob:
            return [url]  # Fetching it will say what is wrong, as the row of this one source.
        raise BadInput(
            f"{url}: cannot be listed ({_format_error(error)}). Check the address and the access to it."
        ) from error
    files = [file for file in found if PurePosixPath(file).suffix.lower() in suffixes]
    left = tuple((file, "") for file in sorted({*found} - {*files}))
    if not files:
        held = f". Not taken, {describe_left_out(left)}" if left else ""
        raise BadInput(f"{url}: no video there by its name{held}. Name a file itself to have it taken whatever it is.")
    say_left_out(url, left)
    return sorted(system.unstrip_protocol(file) for file in files)


def fetch(url: str, folder: Path, config: FetchConfig) -> Path:
    """Return the file in `folder` that has the content of `url`; fetch it unless it is there. Raises BadFetch.

    Runs in a child process with the time limit, except for memory://, whose files no other process has.
    """
    note = _read_note(folder, url)
    task = (url, folder, note, int(config.limit_gb * 1e9))
    try:
        if url.startswith("memory://"):
            return folder / download(*task)
        return folder / run_in_child(download, *task, limit_s=config.limit_s)
    except BadFetch as error:
        if note is None:
            raise
        log.warning("%s Using the copy fetched before.", error)
        return folder / note["file"]


def download(url: str, folder: Path, note: Note | None, max_bytes: int) -> str:
    """Fetch `url` into `folder` and return the file's name there; nothing is fetched when the note is still valid."""
    try:
        opened = _web if _is_web(url) else _file_system
        with opened(url, note["version"] if note else None) as (blocks, version):
            if note and blocks is None:
                return str(note["file"])
            name = _store(url, blocks or iter(()), folder, max_bytes)
    except BadFetch:
        raise
    except Exception as error:
        raise BadFetch(
            f"{url}: cannot be fetched ({_format_error(error)}). Check the address and the access to it."
        ) from error
    publish_json(_locate_note(folder, url), {"url": url, "file": name, "version": version})
    return name


@contextmanager
def _web(url: str, former: Any) -> Iterator[tuple[Iterator[bytes] | None, Any]]:
    """Yield the blocks of a URL's content, None when it is still the `former` version, and the version that the server
    names."""
    conditions = {CONDITIONS[name]: value for name, value in (former or {}).items()}
    with httpx.stream("GET", url, headers=conditions, follow_redirects=True, timeout=SILENCE_S) as answer:
        if answer.status_code == httpx.codes.NOT_MODIFIED:
            yield None, former
            return
        if answer.status_code != httpx.codes.OK:
            raise BadFetch(f"{url}: the server answers {answer.status_code} {answer.reason_phrase}. Check the address.")
        yield answer.iter_bytes(BLOCK), {name: answer.headers[name] for name in CONDITIONS if name in answer.headers}


@contextmanager
def _file_system(url: str, former: Any) -> Iterator[tuple[Iterator[bytes] | None, Any]]:
    system, path = fsspec.core.url_to_fs(url)
    version = str(system.ukey(path))
    if version == former:
        yield None, version
        return
    with system.open(path, "rb") as file:
        yield _read_blocks(file), version


def _read_blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def _store(url: str, blocks: Iterator[bytes], folder: Path, max_bytes: int) -> str:
    """Write the blocks to a file named by their digest; it appears complete or not at all."""
    digest, size, suffix = hashlib.sha256(), 0, _find_suffix(url)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".fetched.{os.getpid()}-{os.urandom(4).hex()}{suffix}"
    try:
        with aside.open("wb") as file:
            for block in blocks:
                size += len(block)
                if size > max_bytes:
                    raise BadFetch(f"{url}: is larger than {max_bytes / 1e9:g} GB. Raise --ingest.fetch.limit-gb.")
                digest.update(block)
                file.write(block)
            os.fsync(file.fileno())
        name = f"{digest.hexdigest()[:32]}{suffix}"
        aside.replace(folder / name)
    finally:
        aside.unlink(missing_ok=True)
    return name


def _read_note(folder: Path, url: str) -> Note | None:
    """Return the note of a URL, if it can be read and its file still exists."""
    try:
        note = json.loads(_locate_note(folder, url).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and (folder / note.get("file", "")).is_file() else None


def _locate_note(folder: Path, url: str) -> Path:
    return folder / "notes" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.json"


def _is_web(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))


def _find_suffix(url: str) -> str:
    """Return the suffix of the file that a URL names, if it is a plain one."""
    suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,5}", suffix) else ""


def _format_error(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
