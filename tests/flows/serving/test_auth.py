"""The password of a server that others reach: required, in a file of its own, refused where others can read it."""

import stat
from pathlib import Path

import pytest

from flows.serving.auth import check_reach, read_auth
from models.errors import BadInput


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_on_this_machine_alone_no_password_is_needed(host: str):
    check_reach(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.2", "studio"])
def test_where_others_reach_it_a_password_is(host: str):
    with pytest.raises(BadInput, match="--auth"):
        check_reach(host, None)
    check_reach(host, Path("secret"))


def test_a_password_is_made_once_and_its_file_is_the_users_alone(tmp_path: Path):
    path = tmp_path / "new/auth"
    made = read_auth(path)
    assert made == read_auth(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(made.partition(":")[2]) >= 32
    assert made != read_auth(tmp_path / "other")


@pytest.mark.parametrize(
    ("text", "mode", "wrong"),
    [
        ("a:b", 0o640, "others can read"),
        ("ab", 0o600, "has no line"),
        ("a:b\nc:d", 0o600, "has no line"),
        (":b", 0o600, "no line"),
    ],
)
def test_what_is_no_password_of_ones_own_is_refused(tmp_path: Path, text: str, mode: int, wrong: str):
    path = tmp_path / "auth"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(BadInput, match=wrong) as caught:
        read_auth(path)
    assert text not in str(caught.value)


def test_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "real").write_text("a:b")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(BadInput, match="cannot be read"):
        read_auth(tmp_path / "link")
