"""What ends a run early: the clock, the disk, and the same fault again and again."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from datetime import time as Clock
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from pydantic import ValidationError

from flows.running.guard import Guard, NightConfig, check_space, find_deadline, measure_free_disk, read_local_time
from models.errors import BadInput
from tasks.manifest import ERROR_FIELDS, Lineage, ManifestRef, make_table, write_manifest
from tests.declared import declared

EVENING = datetime(2026, 3, 1, 22, 30, tzinfo=read_local_time().tzinfo)

Written = Callable[..., ManifestRef]


def guard(folder: Path, free: int = 10**12, deadline: datetime | None = None, **settings: Any) -> Guard:
    return Guard(folder, NightConfig(**settings), deadline, free=lambda _: free)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a manifest of one row with an error code, or none."""
    count = iter(range(1000))

    def write(code: str | None, **facts: Any) -> ManifestRef:
        row = {"error_code": code, "error_message": code and f"x: {code}.", "attempt": 1}
        path = tmp_path / f"{next(count)}.parquet"
        made = write_manifest(path, make_table([row], pa.schema(ERROR_FIELDS)), Lineage(step="s", version=1))
        return made.model_copy(update=facts)

    return write


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("0.5 h", 1800), ("PT2H", 7200)]
)
def test_a_budget_is_written_as_people_say_it(text: str, seconds: int):
    assert NightConfig(budget=text).budget == timedelta(seconds=seconds)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"budget": "soon"}, "budget"),
        ({"budget": ""}, "budget"),
        ({"budget": "9" * 20 + "h"}, "is too long"),
        ({"budget": "100000000h"}, "budget\n  Input should be less than or equal to"),
        ({"budget": "-PT1H"}, "budget\n  Input should be greater than or equal to"),
        ({"until": "25:00"}, "until"),
        ({"until": "06:00+05:00"}, "must be a time of this machine's clock; remove its time zone"),
        ({"same_fault": -1}, "same_fault"),
    ],
)
def test_a_night_that_cannot_be_understood_is_refused(wrong: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        NightConfig(**wrong)


def test_the_settings_survive_being_written_and_read():
    config = NightConfig(until=Clock(6, 0), budget=timedelta(hours=1.5))
    assert NightConfig.model_validate(config.model_dump(mode="json")) == config


def test_six_in_the_morning_is_tomorrow_in_the_evening_and_today_after_midnight():
    config = NightConfig(until=Clock(6, 0))
    for now in (EVENING, EVENING + timedelta(hours=4)):
        assert find_deadline(config, now) == EVENING + timedelta(hours=7.5)
    assert find_deadline(config, EVENING + timedelta(hours=7.5)) == EVENING + timedelta(hours=31.5)


def test_the_earlier_of_budget_and_clock_counts():
    both = NightConfig(until=Clock(6, 0), budget=timedelta(hours=2))
    assert find_deadline(both, EVENING) == EVENING + timedelta(hours=2)
    assert find_deadline(both, EVENING + timedelta(hours=7)) == EVENING + timedelta(hours=7.5)
    assert find_deadline(NightConfig(), EVENING) is None


def test_after_the_deadline_nothing_starts_and_what_is_begun_is_finished(tmp_path: Path):
    over = guard(tmp_path, deadline=datetime(2026, 3, 1, 6, 0, tzinfo=UTC))
    assert not over.may_start()
    assert over.may_start(begun=True)
    assert over.reason == "the time limit was reached at 06:00:00"
    assert guard(tmp_path, deadline=read_local_time() + timedelta(hours=1)).may_start()


def test_a_full_disk_stops_what_is_begun_as_well(tmp_path: Path):
    full = guard(tmp_path, free=499_000_000)
    assert not full.may_start(begun=True)
    assert full.reason == f"less than 500 MB are free on the disk of {tmp_path}; free some"
    assert guard(tmp_path, free=501_000_000).may_start()


def test_too_little_space_for_all_is_said_before_anything_is_made(tmp_path: Path):
    with pytest.raises(BadInput, match=r"about 700 MB will be written and 500 MB stay free, but only 1000 MB are left"):
        check_space(tmp_path, 700_000_000, NightConfig(), free=lambda _: 1_000_000_000)
    check_space(tmp_path, 500_000_000, NightConfig(), free=lambda _: 1_000_000_000)


def test_the_disk_of_a_folder_that_is_not_there_yet_is_its_parents(tmp_path: Path):
    assert abs(measure_free_disk(tmp_path / "a" / "b") - measure_free_disk(tmp_path)) < 10**9


def test_the_same_fault_again_and_again_stops_the_run(tmp_path: Path, written: Written):
    watched = guard(tmp_path, same_fault=3)
    watched.saw([written("out_of_memory"), written("out_of_memory")])
    assert watched.may_start()
    watched.saw([written("out_of_memory")])
    assert not watched.may_start(begun=True)
    assert watched.reason == "3 clips in a row failed with out_of_memory, the last one: x: out_of_memory."


def test_other_faults_and_successes_between_do_not(tmp_path: Path, written: Written):
    watched = guard(tmp_path, same_fault=2)
    watched.saw([written(code) for code in ("a", None, "a", "b", "a", None, None)])
    watched.saw([written("a"), written(None, cached=True)])
    assert watched.may_start()
    watched.saw([written("a")])
    assert not watched.may_start()


def test_the_breaker_can_be_switched_off(tmp_path: Path, written: Written):
    watched = guard(tmp_path, same_fault=0)
    watched.saw([written("a") for _ in range(50)])
    assert watched.may_start()


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(NightConfig) == {
        "": "frozen=True, extra='forbid'",
        "until": "None",
        "budget": "None, ge=0:00:00, le=3650 days, 0:00:00",
        "same_fault": "10, ge=0",
        "keep_free_mb": "500, ge=0",
    }


@pytest.mark.parametrize(
    ("start", "until", "hours"),
    [
        ("2026-10-22 22:00", "06:00", 8),
        ("2026-10-24 22:00", "06:00", 9),
        ("2027-03-27 22:00", "06:00", 7),
        ("2026-10-25 02:30", "02:15", 24.75),
        ("2026-10-24 22:00", "22:00", 25),
    ],
)
def test_a_night_of_a_schedule_ends_at_the_wall_clocks_hour_in_its_zone(start: str, until: str, hours: float):
    berlin = ZoneInfo("Europe/Berlin")
    scheduled = datetime.fromisoformat(start).replace(tzinfo=berlin)
    late = scheduled.astimezone(UTC) + timedelta(hours=3)
    end = find_deadline(NightConfig.model_validate({"until": until}), late, scheduled)
    assert end
    assert end.astimezone(berlin).strftime("%H:%M") == until
    assert (end.timestamp() - scheduled.timestamp()) / 3600 == hours


def test_a_budget_is_counted_from_when_work_begins():
    scheduled = datetime(2026, 11, 1, 22, tzinfo=ZoneInfo("Europe/Berlin"))
    late = scheduled + timedelta(hours=3)
    assert find_deadline(NightConfig.model_validate({"budget": "1h"}), late, scheduled) == late + timedelta(hours=1)
