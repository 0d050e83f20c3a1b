"""What may be asked of a job, on the command line and in a table."""

from tasks.generate.job_columns import JobColumns
from tasks.generate.job_settings import COLUMNS, JobsConfig
from tests.declared import declared


def test_the_settings_have_these_defaults_and_bounds():
    assert declared(JobsConfig) == {
        "": "frozen=True, extra='forbid'",
        "model": "None",
        "seed": "None, ge=0, lt=9223372036854775808",
        "takes": "1, ge=1, le=64",
        "prompt": "None, max_length=10000",
        "negative_prompt": "None, max_length=10000",
        "picture_model": "None",
        "motion": "None",
        "motion_strength": "None, ge=0, le=1000, allow_inf_nan=False",
        "steps": "None, ge=1, le=1000",
        "fps": "None, gt=1, le=240",
        "playback_fps": "None, gt=0, le=240",
        "width": "None, ge=8, le=8192",
        "height": "None, ge=8, le=8192",
        "frames": "None, ge=2, le=1000",
        "longer": "None",
        "motion_bucket": "None, ge=0, le=255",
        "calibration": "None",
        "guidance": "None, ge=0, le=100, ge=0, le=100",
        "noise_aug": "None, ge=0, le=10",
        "lora": "None",
        "lora_strength": "None, ge=-10, le=10",
        "dtype": "'auto'",
        "fit": "'crop'",
        "background": "'white'",
    }
    columns = declared(JobColumns)
    assert {name: columns[name] for name in ("", *COLUMNS, "ignored")} == {
        "": "frozen=True, extra='forbid', coerce_numbers_to_str=True",
        "image": "None, min_length=1",
        "prompt": "None, max_length=10000",
        "negative_prompt": "None, max_length=10000",
        "picture_model": "None",
        "key": "None",
        "prefix": "None",
        "priority": "None, ge=-2147483648, lt=2147483648",
        "model": "None",
        "motion": "None",
        "motion_strength": "None, ge=0, le=1000, allow_inf_nan=False",
        "seed": "None, ge=0, lt=9223372036854775808",
        "steps": "None, ge=1, le=1000",
        "fps": "None, gt=1, le=240",
        "playback_fps": "None, gt=0, le=240",
        "width": "None, ge=8, le=8192",
        "height": "None, ge=8, le=8192",
        "frames": "None, ge=2, le=1000",
        "longer": "None",
        "motion_bucket": "None, ge=0, le=255",
        "guidance_min": "None, ge=0, le=100",
        "guidance_max": "None, ge=0, le=100",
        "noise_aug": "None, ge=0, le=10",
        "lora": "None",
        "lora_strength": "None, ge=-10, le=10",
        "ignored": "()",
    }
