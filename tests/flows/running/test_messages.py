"""What is shown: names of any letters stay, control characters are written out, long lines lose their middle."""

import logging

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows.command.main import main
from flows.running.messages import LONGEST, make_line, make_lines
from flows.running.progress import show_log

ODD = st.sampled_from(
    ["\x1b[2J", "\x1b]0;x\x07", "\r", "\n", "\x9b31m", "\u202e", "\ud800", "\x00", "\u2028", "\ufeff"]
)


@example("``" + "x" * 500)
@given(st.lists(ODD | st.text(max_size=30) | st.text("x", min_size=500, max_size=600), max_size=8).map("".join))
def test_no_message_has_control_characters_or_more_than_a_few_hundred(text: str):
    shown = make_line(text)
    assert len(shown) <= LONGEST
    assert all(ord(c) >= 32 and not 127 <= ord(c) < 160 for c in shown)
    assert not {"\u202e", "\u2028", "\ufeff"} & {*shown}
    assert shown.encode().decode() == shown


def test_letters_of_every_language_and_joined_signs_stay_as_they_are():
    for name in ("犬.png", "Größe\u00a0x", "می\u200cخواهم", "👩\u200d🚀", "a\u3000b"):
        assert make_line(name) == name


def test_what_is_escaped_and_what_is_left_out_can_be_told():
    assert make_line("a\x1b[2Jb\nc") == r"a\x1b[2Jb\nc"
    assert make_line("begin " + "x" * 9999 + " end") == f"begin {'x' * 241} … {'x' * 146} end"
    assert make_lines("one\ntwo\x07") == "one\ntwo\\x07"


def test_a_command_to_copy_stays_whole_within_reason():
    command = f"no such file; `hf download {'x' * 1500}` downloads it."
    assert make_line(command) == command
    assert make_line(f"`hf {'x' * 9999}`") == f"`hf {'x' * 1843} … {'x' * 149}`"
    assert len(make_line(f"`{'x' * 9999}`")) == len(make_line(f"`hf {'x' * 9999}")) == LONGEST


def test_an_error_and_a_log_line_with_an_odd_name_cannot_move_the_cursor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(logging.getLogger("reelmill"), name, getattr(logging.getLogger("reelmill"), name))
    assert main(["fly\x1b[2J"]) == 2
    show_log(debug=True)
    try:
        raise ValueError("\x1b[31m")
    except ValueError:
        logging.getLogger("reelmill").exception("%s: odd", "a\x1b[2J\n.mp4")
    said = capsys.readouterr().err
    assert r"Unknown command fly\x1b[2J" in said
    assert r"a\x1b[2J\n.mp4: odd" in said
    assert "\x1b" not in said
