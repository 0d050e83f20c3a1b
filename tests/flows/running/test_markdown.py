"""Strings from outside in Markdown: whatever they are, they stay text in their place."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from flows.running.markdown import escape_markdown, make_table
from flows.running.messages import escape

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])

SIGNS = st.text(st.sampled_from("|`*_~[]()<>!#-+=\\&;:/.@\"'{}\n\r\t ahtpsw0123$%^") | st.characters(), max_size=80)

HOSTILE = (
    "a | b |\n| --- | --- |",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](http://evil.example/pixel.png)",
    "[click](javascript:alert(1))",
    "https://evil.example www.evil.example me@evil.example",
    "\n\n# Approved\n\n- all fine",
    "&lt;b&gt; &#60;b&#62; &amp;",
    "``` code",
    "| \\| \\\\| |",
    "a\u202eb\u2066c\x1b[31m",
    "~~gone~~ **loud** _x_ ==y== $z$ :smile:",
)


def read_inline(tokens: list[Token]) -> list[tuple[str, str]]:
    """The kinds and the texts of what stands in lines."""
    return [(child.type, child.content) for token in tokens for child in token.children or []]


def shown(text: str) -> str:
    return " ".join(escape(text.replace("\n", " ")).split())


def check_cell(text: str) -> None:
    table = make_table(("item", "reason"), [(text, "plain"), ("after", text)])
    tokens = READER.parse(table)
    kinds = [token.type for token in tokens]
    assert (kinds.count("tr_open"), kinds.count("td_open"), kinds.count("table_open")) == (3, 4, 1)
    assert kinds[-1] == "table_close", "nothing comes after the table"
    inline = read_inline(tokens)
    assert {kind for kind, _ in inline} <= {"text", "text_special"}
    cells = ["".join(child.content for child in token.children or []) for token in tokens if token.type == "inline"]
    assert cells == ["item", "reason", shown(text), "plain", "after", shown(text)]


@given(SIGNS.filter(lambda text: len(shown(text)) <= 200))
def test_any_text_stays_in_its_cell_and_is_shown_as_it_is(text: str):
    check_cell(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_known_tricks_stay_text(text: str):
    check_cell(text)
    assert not re.search(r"(?<!\\)(?:\\\\)*[<>\[\]()`*_|!@:./&]", escape_markdown(text))


def test_a_long_text_loses_its_middle():
    line = escape_markdown("a" * 500 + "end")
    assert line.endswith("end")
    assert len(line) < 210
