"""What Prefect's UI shows of a run that ended: a summary with its numbers, what failed and why, pictures, and links."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from pydantic import BaseModel

from flows.running.config import Outcome
from flows.running.contact_sheet import draw_contact_sheet
from flows.running.failures import Failure, list_failures, list_tables
from flows.running.markdown import escape_markdown, make_table
from flows.running.metrics import UP, write_metrics
from flows.running.story import is_seen, tell
from tasks.keep_verdicts import Funnel
from tasks.ledger import read_marker

URL = "REELMILL_URL"
"""The environment variable by which `reelmill up` tells its runs the address that it serves."""

SHOWN_FAILURES = 50

PAGES = ("index.html", "report/index.html")
"""The pages of an output folder, by the path in it."""


def tell_summary(config: BaseModel | None, outcome: Outcome, seconds: float) -> None:
    """Write the summary and the figures of the run of a flow that this code runs in, if it is one with an output
    folder; it took so many seconds."""
    folder = find_folder(config)
    context = FlowRunContext.get()
    if folder is None or context is None or not is_seen():
        return
    flow = context.flow.name if context.flow else "run"
    tell(lambda: write_metrics(flow, folder, outcome, seconds))
    text = make_summary(folder, outcome)
    tell(lambda: create_markdown_artifact(text, key=make_key(flow, folder), description=str(folder)))


def find_folder(config: BaseModel | None) -> Path | None:
    """Return the folder that a flow of these settings writes to."""
    named = getattr(config, "out", None) or getattr(config, "dataset", None)
    return named if isinstance(named, Path) else None


def make_key(flow: str, folder: Path) -> str:
    """Return the key by which the UI keeps the summaries of a flow on a folder together: small letters, digits,
    dashes."""
    return f"{flow}-{re.sub('[^a-z0-9]+', '-', folder.resolve().name.lower()).strip('-') or 'folder'}"[:100]


def make_summary(folder: Path, outcome: Outcome) -> str:
    """Return the summary of an outcome, as Markdown."""
    failures = list(dict.fromkeys(each for table in list_tables(folder) for each in list_failures(table)))
    parts = [
        f"**{escape_markdown(outcome.ending or 'All done')}**",
        *_describe_outcome(outcome),
        *_link_pages(folder),
        *_show_failures(failures),
        *_show_pictures(folder),
    ]
    return "\n\n".join(parts)


def _describe_outcome(outcome: Outcome) -> Iterator[str]:
    """Yield the outcome's numbers, and its funnel or its yield."""
    numbers = {name: value for name, value in outcome if isinstance(value, int) and not isinstance(value, bool)}
    if numbers:
        yield make_table(("what", "how many"), [(name.replace("_", " "), value) for name, value in numbers.items()])
    stopped = getattr(outcome, "stopped", None)
    if stopped:
        yield f"It stopped early: {escape_markdown(stopped, 400)}."
    funnel = getattr(outcome, "funnel", None)
    if isinstance(funnel, Funnel):
        yield _describe_funnel(funnel)


def _describe_funnel(funnel: Funnel) -> str:
    rows: list[Sequence[Any]] = [("all clips", funnel.clips, f"{funnel.seconds:.1f} s")]
    rows += [(f"dropped: {each.reason}", -each.first, "") for each in funnel.reasons if each.first]
    rows += [("kept", funnel.kept, f"{funnel.kept_seconds:.1f} s")]
    return make_table(("funnel", "clips", "length"), rows)


def _link_pages(folder: Path) -> Iterator[str]:
    """Yield a link to each page, by the server of `reelmill up` where that started this run."""
    address = register_pages(folder)
    for page in PAGES:
        if (folder / page).is_file():
            if address:
                yield f"[The page, with everything]({address}/{quote(page)})"
            else:
                yield f"The page: {escape_markdown(str((folder / page).resolve()), 400)}"


def register_pages(folder: Path) -> str | None:
    """Let the `reelmill up` that started this run show an output folder's pages; return their address, or None."""
    home, url, marker = os.environ.get(UP), os.environ.get(URL), read_marker(folder)
    if not home or not url or marker is None:
        return None
    link, target = Path(home) / "pages" / marker.id, folder.resolve()
    with suppress(OSError):
        if not link.is_symlink() or link.readlink() != target:
            aside = link.with_name(f".{marker.id}.{os.getpid()}")
            aside.unlink(missing_ok=True)
            aside.symlink_to(target)
            aside.replace(link)
    return f"{url}/pages/{marker.id}"


def _show_failures(failures: Sequence[Failure]) -> Iterator[str]:
    if failures:
        yield "### What failed"
        shown = [(each.item, each.reason.removeprefix(f"{each.item}: ")) for each in failures[:SHOWN_FAILURES]]
        yield make_table(("item", "reason"), shown)
    if len(failures) > SHOWN_FAILURES:
        yield f"and {len(failures) - SHOWN_FAILURES} more, in the tables of the folder."


def _show_pictures(folder: Path) -> Iterator[str]:
    if sheet := draw_contact_sheet(folder):
        yield "### Some of what was made"
        yield f"![clips]({sheet})"
