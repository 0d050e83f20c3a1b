"""The systemd unit that keeps `reelmill up` running, and starts it after a reboot."""

import os
import shlex
from collections.abc import Sequence

UNIT = """\
# Write this to ~/.config/systemd/user/reelmill.service, then:
#   systemctl --user enable --now reelmill
#   loginctl enable-linger    # it starts at boot, and stays when you log out
[Unit]
Description=Reelmill: Prefect's server, its UI, and a worker
After=network-online.target

[Service]
ExecStart={command}
Environment=PATH={path}
# Its children end with it; runs that work have time to save what they have.
KillMode=mixed
TimeoutStopSec=150
Restart=on-failure
RestartSec=10

[Install]
WantedBy=default.target
"""


def describe_unit(command: Sequence[str]) -> str:
    """Return a unit that runs a command."""
    return UNIT.format(command=" ".join(map(quote, command)), path=quote(os.environ.get("PATH", "/usr/bin:/bin")))


def quote(word: str) -> str:
    """Return a word of a command as systemd reads it: `%` begins a specifier there, `$` a variable."""
    escaped = word.replace("\\", "\\\\").replace("%", "%%").replace("$", "$$")
    return escaped if shlex.quote(escaped) == escaped else '"' + escaped.replace('"', '\\"') + '"'
