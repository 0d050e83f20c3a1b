"""Ctrl-C stops a run where it is, and at its next step where a library let it go by."""

import signal
import threading
from contextlib import suppress

import pytest

from flows.running.interrupt import check_stopped, stoppable


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
    check_stopped()


def test_what_ctrl_c_did_before_it_does_again_afterwards():
    before = signal.getsignal(signal.SIGINT)
    with stoppable():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


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
