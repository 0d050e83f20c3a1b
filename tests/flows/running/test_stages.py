"""Overlapped stages: how work is cut, and what goes first."""

from flows.running.stages import make_pieces


def test_work_is_cut_into_pieces_of_about_two_seconds():
    assert make_pieces([(n, 0.5) for n in range(9)]) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert make_pieces([(n, 30.0) for n in range(3)]) == [[0], [1], [2]]
    assert make_pieces([(n, 0.0) for n in range(3)]) == [[0, 1, 2]]
    assert make_pieces([]) == []
