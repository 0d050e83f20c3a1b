"""The systemd unit: what systemd reads back is the command."""

import shutil
import subprocess
from pathlib import Path

import pytest

from flows.serving.unit import describe_unit, quote


def test_words_that_systemd_would_read_otherwise_are_quoted():
    assert quote("plain/path") == "plain/path"
    assert quote("100%") == '"100%%"' or quote("100%") == "100%%"
    assert quote("a b") == '"a b"'
    assert quote('say "$HOME"') == '"say \\"$$HOME\\""'


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not here")
def test_systemd_takes_the_unit(tmp_path: Path):
    unit = tmp_path / "reelmill.service"
    unit.write_text(describe_unit(["/bin/true", "--folder", "/tmp/a b %n"]))
    done = subprocess.run(["systemd-analyze", "verify", "--user", unit], capture_output=True, text=True, check=False)
    assert "reelmill.service" not in done.stderr, done.stderr
