"""Texts from outside as what can be kept."""

from tasks.naming import prefixed, printable, safe_name


def test_names_are_safe_in_a_file_name():
    assert safe_name("../../etc/passwd") == "etc-passwd"
    assert safe_name("caf\u00e9 au lait (2).x") == "caf-au-lait-2-.x"
    assert safe_name("...") == safe_name("\u7321") == "item"
    assert len(safe_name("a" * 300)) == 60


def test_half_a_character_is_replaced_in_what_a_table_is_to_hold():
    assert printable("caf\u00e9 \U0001f600") == "caf\u00e9 \U0001f600"
    assert printable("a\ud800b") == "a?b"


def test_a_prefix_that_names_the_picture_does_not_name_it_again():
    assert prefixed("night", "beach") == "night-beach"
    assert prefixed("night-beach", "beach") == "night-beach"
    assert prefixed("beach", "beach") == "beach"
    assert prefixed("night-a-b", "a b") == "night-a-b"
    assert prefixed("night1", "1") == "night1-1"
    assert prefixed(None, "beach") == "beach"
