"""Ctrl-C stops a run where it is, and at its next step where a library let it go by."""

import signal
import threading
from contextlib import suppress

import pytest

from flows.running.interrupt import Terminated, stoppable
from tasks.stopping import check_stopped, is_asked_to_stop


def test_ctrl_c_stops_what_is_going_on_at_once():
    ways: list[str] = []
    with pytest.raises(KeyboardInterrupt), stoppable():
        signal.raise_signal(signal.SIGINT)
        ways.append("went on")
    assert ways == []


def test_a_ctrl_c_that_was_swallowed_is_raised_again_at_the_next_step_and_not_in_the_next_run():
    with stoppable():
        check_stopped()
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            check_stopped()
    assert is_asked_to_stop(), "steps in other threads still have to see it"
    with stoppable():
        check_stopped()


def test_sigterm_stops_as_ctrl_c_does_and_is_told_from_it():
    with pytest.raises(Terminated), stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert is_asked_to_stop()


def test_what_ctrl_c_did_before_it_does_again_afterwards():
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with stoppable():
        assert all(signal.getsignal(number) is not was for number, was in zip(numbers, before, strict=True))
    assert [signal.getsignal(number) for number in numbers] == before


def test_off_the_main_thread_nothing_is_changed():
    """Python sets handlers in the main thread only, and raises ValueError elsewhere."""
    seen: list[object] = []

    def run() -> None:
        with stoppable():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
