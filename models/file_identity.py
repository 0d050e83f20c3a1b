"""The identity of a file: what tells, without reading it, that it may have other content than it had."""

from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """A file's device, inode, size in bytes, and times of change in nanoseconds.

    An edit that sets the time of modification back leaves all but `ctime_ns` equal.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def identify(path: Path) -> Identity:
    """Return the identity of the file that `path` leads to; raises OSError where there is none."""
    facts = path.stat()
    return Identity(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
