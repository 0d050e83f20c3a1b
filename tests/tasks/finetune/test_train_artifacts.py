"""What Prefect's page shows of a training: a table and a curve; nothing outside of a task."""

from tasks.finetune.train_artifacts import Artifacts, draw_bars, make_markdown


def test_losses_are_bars_from_the_lowest_to_the_highest():
    assert draw_bars([8.0, 4.5, 1.0]) == "█▅▁"
    assert draw_bars([2.0, 2.0]) == "▁▁"
    assert draw_bars([]) == ""
    assert len(draw_bars(list(map(float, range(1000))))) == 60


def test_the_table_has_what_was_judged():
    rows = [
        {"step": 0, "loss": None, "held_out": 0.5, "samples": "step-000000"},
        {"step": 10, "loss": 1.5},
        {"step": 20, "loss": 1.25, "held_out": 0.25, "samples": "step-000020"},
    ]
    made = make_markdown([2.0, 1.0], rows)
    assert "| step | loss | held_out |" in made
    assert "| 0 |  | 0.5 |" in made
    assert "| 20 | 1.25 | 0.25 |" in made
    assert "| 10 |" not in made
    assert "`step-000020`" in made


def test_outside_of_a_task_nothing_is_sent():
    shown = Artifacts("k", 10)
    assert not shown.on
    shown.stepped(1, 1.0)
    shown.judged({"step": 1, "samples": "a"})
