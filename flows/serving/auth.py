"""The name and password of a server that others can reach: in a file that only its user can read, and then in the
environment of the server, the worker and the runs. They are in no command line, no log and no other file.
"""

import os
import secrets
from ipaddress import ip_address
from pathlib import Path

from models.errors import BadInput

USER = "reelmill"


def is_loopback(host: str) -> bool:
    """Say whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_reach(host: str, auth: Path | None) -> None:
    """Raise BadInput where others could reach a server without a password."""
    if auth is None and not is_loopback(host):
        raise BadInput(
            f"--host {host}: other machines could start runs there. Add --auth FILE: a file with "
            "USER:PASSWORD, made for you where there is none."
        )


def read_auth(path: Path) -> str:
    """Return the USER:PASSWORD of a file, which is made with a random password where there is none. Raises BadInput
    where others can read the file, or it has no such line."""
    if not os.path.lexists(path):
        _make_auth(path)
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as file:
            mode, text = os.fstat(file.fileno()).st_mode, file.read(1000).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not a text'}).") from error
    if mode & 0o077:
        raise BadInput(f"{path}: others can read this password. `chmod 600 {path}` ends that; choose a new one too.")
    user, colon, password = text.partition(":")
    if not (user and colon and password) or "\n" in text:
        raise BadInput(f"{path}: has no line USER:PASSWORD. Remove it, and one is made.")
    return text


def _make_auth(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
            file.write(f"{USER}:{secrets.token_urlsafe(24)}\n")
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}). Choose another --auth.") from error
