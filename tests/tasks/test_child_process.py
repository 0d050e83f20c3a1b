import errno
import logging
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from models.errors import BadMedia, DecodeCrash, DecodeLimit, DecodeTimeout
from tasks.child_process import Child, run_in_child, run_program
from tasks.limits import Limits, set_limits
from tasks.media.probe import probe

UNGUARDED = """
import os, threading
from tasks.child_process import run_in_child
answers = []
caller = threading.Thread(target=lambda: answers.append(run_in_child(os.getpid, limit_s=60)))
caller.start(); caller.join()
print("ran", answers[0] != os.getpid())
"""


def test_the_value_comes_from_another_process():
    assert run_in_child(os.getpid, limit_s=30) not in (os.getpid(), run_in_child(os.getpid, limit_s=30))


def test_a_large_value_comes_back_whole():
    assert run_in_child(bytes, 3_000_000, limit_s=30) == bytes(3_000_000)


def test_a_hanging_child_is_killed_at_its_limit():
    started = time.monotonic()
    with pytest.raises(DecodeTimeout, match=r"film\.mp4: not done after 0\.3 s"):
        run_in_child(time.sleep, 60, limit_s=0.3, item="film.mp4")
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(("number", "words"), [(signal.SIGKILL, "Killed"), (signal.SIGSEGV, "Segmentation fault")])
def test_a_dying_child_is_an_error_that_names_the_signal(number: int, words: str):
    with pytest.raises(DecodeCrash, match=rf"film\.mp4: its process died \({words}\)"):
        run_in_child(signal.raise_signal, number, limit_s=30, item="film.mp4")


def test_a_child_that_leaves_without_an_answer_is_a_crash():
    with pytest.raises(DecodeCrash, match="exit code 3"):
        run_in_child(os._exit, 3, limit_s=30)


def test_the_childs_own_error_is_raised_as_it_is(tmp_path: Path):
    with pytest.raises(BadMedia) as caught:
        run_in_child(probe, tmp_path / "missing.mp4", limit_s=30)
    assert type(caught.value) is BadMedia
    assert "missing.mp4" in str(caught.value)


def test_an_unexpected_error_is_a_crash_that_carries_the_traceback():
    with pytest.raises(DecodeCrash, match="forty: ValueError: invalid literal") as caught:
        run_in_child(int, "forty", limit_s=30)
    assert "Traceback" in caught.value.__notes__[0]


def no_room(number: int) -> None:
    raise OSError(number, os.strerror(number), "frames/film.parquet")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_not_the_films_fault(number: int):
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        run_in_child(no_room, number, limit_s=30, item="film.mp4")
    assert caught.value.errno == number


def test_threads_can_run_children_side_by_side():
    with ThreadPoolExecutor(4) as pool:
        squares = list(pool.map(lambda number: run_in_child(pow, number, 2, limit_s=30), range(12)))
    assert squares == [number**2 for number in range(12)]


def test_a_crash_in_one_thread_leaves_the_others_alone():
    def work(number: int) -> object:
        try:
            return run_in_child(os._exit, 1, limit_s=30) if number % 2 else run_in_child(abs, -number, limit_s=30)
        except DecodeCrash:
            return "crash"

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(6))) == [0, "crash", 2, "crash", 4, "crash"]


@pytest.mark.slow
def test_a_child_may_have_children_though_it_is_a_daemon():
    assert run_in_child(partial(run_in_child, abs, -7, limit_s=30), limit_s=60, item="outer") == 7


def test_no_child_and_no_open_file_is_left_behind():
    run_in_child(abs, -1, limit_s=30)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run_in_child(abs, -1, limit_s=30)
        with pytest.raises(DecodeTimeout):
            run_in_child(time.sleep, 60, limit_s=0.05)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.slow
def test_a_program_without_a_main_guard_runs_once(tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(UNGUARDED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.stderr) == ("ran True\n", "")


def take_memory(megabytes: int) -> int:
    return len(bytearray(megabytes * 1_000_000))


def spin() -> None:
    while True:
        pass


@pytest.fixture
def limits():
    """Sets the limits of this process' children, until the test ends."""
    yield lambda **changes: set_limits(Limits(**changes))
    set_limits(Limits())


def test_a_child_that_wants_more_memory_than_it_may_have_is_an_error_that_names_the_setting(limits):
    limits(memory_mb=1000)
    assert run_in_child(take_memory, 100, limit_s=30) == 100_000_000
    with pytest.raises(DecodeLimit, match=r"film\.mp4: takes more than 1000 MB of memory.*--limits\.memory-mb"):
        run_in_child(take_memory, 1100, limit_s=30, item="film.mp4")


def test_a_child_that_wants_more_processor_time_than_it_may_have_is_an_error_that_names_the_setting(limits):
    limits(processor_share=0.01)
    with pytest.raises(DecodeLimit, match=r"film\.mp4: takes more than 1 s of processor.*--limits\.processor-share"):
        run_in_child(spin, limit_s=100, item="film.mp4")


def test_a_program_has_the_limits_that_are_given():
    """As ffmpeg has where it reads a film."""
    taken = [sys.executable, "-c", "print(len(bytearray(1_500_000_000)))"]
    assert run_program(taken, limit_s=100).output == b"1500000000\n"
    ended = run_program(taken, limit_s=100, limits=Limits(memory_mb=1000))
    assert (ended.code, b"MemoryError" in ended.messages) == (1, True)
    spinning = [sys.executable, "-c", "while True: pass"]
    assert run_program(spinning, limit_s=100, limits=Limits(processor_share=0.01)).code < 0


@pytest.mark.parametrize("limit_s", [20.0 * 40 * 3600, 1e12])
def test_a_film_that_claims_many_hours_overflows_no_time_limit(limit_s: float):
    assert run_in_child(abs, -1, limit_s=limit_s) == 1


def test_one_child_serves_many_calls_and_is_replaced_after_one_that_killed_it():
    with Child() as child:
        first = child.run(os.getpid, limit_s=30)
        assert child.run(os.getpid, limit_s=30) == first
        with pytest.raises(DecodeCrash, match="invalid literal"):
            child.run(int, "forty", limit_s=30)
        assert child.run(os.getpid, limit_s=30) == first, "an error that is answered costs no child"
        with pytest.raises(DecodeCrash, match="Segmentation fault"):
            child.run(signal.raise_signal, signal.SIGSEGV, limit_s=30)
        second = child.run(os.getpid, limit_s=30)
        assert second != first
        with pytest.raises(DecodeTimeout):
            child.run(time.sleep, 60, limit_s=0.2)
        assert child.run(os.getpid, limit_s=30) not in (first, second)


def complain(text: str) -> None:
    try:
        int(text)
    except ValueError:
        logging.getLogger("reelmill").debug("no number: %s", text, exc_info=True)


def test_what_a_child_logs_is_logged_here_with_its_traceback(caplog):
    with caplog.at_level(logging.DEBUG, "reelmill"):
        run_in_child(complain, "forty", limit_s=30)
    assert "no number: forty" in caplog.text
    assert "ValueError: invalid literal" in caplog.text


def test_a_child_that_reads_films_loads_no_torch():
    """Loading it costs seconds of processor time for every film."""
    for step in ("media.probe", "curate.scan", "curate.motion", "curate.clip_encoding", "finetune.windows"):
        done = f"import sys, tasks.{step}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", done], check=False).returncode == 0, step
