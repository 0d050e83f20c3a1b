"""A page: one HTML file that needs no other file, in one look, with all text from people escaped.

A step keeps its template beside its module; the template extends base.html.j2 and may import parts.html.j2.
"""

import base64
import logging
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.ledger import is_whole

log = logging.getLogger("reelmill")

SHARED = Path(__file__).parent
"""Where the templates and the stylesheet that pages share are."""


def render(template: Path, **values: Any) -> str:
    """Return the page that `template` makes of `values`; the same values give the same bytes."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "words": format_words,
        "duration": format_duration,
        "clock": format_clock,
        "number": format_number,
        "plural": format_count,
        "file_size": format_size,
        "file_name": file_name,
    }
    return environment.get_template(template.name).render(**values)


def make_data_uri(content: bytes, kind: str) -> str:
    """Return a data: address that contains bytes of MIME type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def embed_file(path: Path, kind: str) -> str:
    """Return a data: address that contains a file of MIME type `kind`. One that has other bytes than were written is
    not shown: the address is that of nothing, and the log says so."""
    if not is_whole(path):
        log.warning(
            "%s: has other bytes than were written, so it is not shown. Delete it, and run the same command again.",
            path,
        )
        return make_data_uri(b"", kind)
    return make_data_uri(path.read_bytes(), kind)


def format_words(name: str | None) -> str:
    """Return a name such as pan_right as words; "not measured" for null."""
    return name.replace("_", " ") if name else "not measured"


def format_number(count: float) -> str:
    """Return a count with commas between its thousands."""
    return f"{count:,.0f}"


def format_count(count: int, noun: str) -> str:
    """Return a count with its noun: "1 clip", "2 clips"."""
    return f"{format_number(count)} {noun}{'' if count == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Return a length for people: "12.4 s", "3.5 min" or "2 h 05 min"."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 99.95 else f"{int(minutes // 60)} h {int(minutes % 60):02d} min"


def format_clock(seconds: float) -> str:
    """Return a place in a video: "0:04.7" or "1:02:33.0"."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    head = f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else f"{minutes}"
    return f"{head}:{rest // 10:02d}.{rest % 10}"


def file_name(source: str) -> str:
    """Return the last part of a path or address, whatever system it comes from."""
    return source.replace("\\", "/").rstrip("/").split("/")[-1]


def format_size(count: int) -> str:
    """Return a number of bytes for people: "0 bytes", "12 kB", "3.4 MB" or "1.2 GB"."""
    if count < 1000:
        return format_count(count, "byte")
    for unit, size in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if count < 999.5 * size or unit == "GB":
            return f"{count / size:.0f} {unit}" if unit == "kB" else f"{count / size:.1f} {unit}"
    raise AssertionError("the last unit takes everything")
