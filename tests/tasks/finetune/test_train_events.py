"""Event files: read back by the format's own reader; what is made again after a resume is there once."""

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from tasks.finetune.train_events import Events


def read_events(folder: Path) -> list[Event]:
    """The events of a folder's files: records of a length, its checksum, the event, and its checksum."""
    found = []
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def test_numbers_are_written_and_a_resume_hides_what_it_makes_again(tmp_path: Path):
    first = Events(tmp_path / "events", 1)
    first.add(1, {"loss": 1.5, "learning_rate": 0.25, "step": 1, "samples": "a", "held_out": None})
    first.add(2, {"loss": 1.0})
    first.close()
    again = Events(tmp_path / "events", 2)
    again.add(2, {"loss": 1.0})
    again.close()
    every = read_events(tmp_path / "events")
    values = [(event.step, value.tag, value.simple_value) for event in every for value in event.summary.value]
    assert values == [(1, "loss", 1.5), (1, "learning_rate", 0.25), (2, "loss", 1.0), (2, "loss", 1.0)]
    assert [event.step for event in every if event.session_log.status] == [1, 2]
