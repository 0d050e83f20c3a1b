"""What this user's own state folder knows of output folders, under the ids in their markers: what stands in an output
folder may be a stranger's, and what stands here is this user's."""

import os
from pathlib import Path

from tasks.ledger import Marker


def locate_state(marker: Marker, kind: str) -> Path:
    """Return the file of the user's own state that keeps one `kind` of facts about a folder, wherever that is now."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "reelmill/folders" / f"{marker.id}.{kind}"
