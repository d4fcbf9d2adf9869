"""metrics.jsonl and TensorBoard's events."""

import json

from tensorboardX.proto.event_pb2 import Event

from resnet_jax.run.records import Records, read_records, record_once


def pairs(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [(r["step"], r["split"]) for r in map(json.loads, lines)]


def test_records_are_one_json_object_a_line_and_visible_at_once(tmp_path):
  records = Records(tmp_path, 0)
  records.write(10, "train", loss=1.5, accuracy=0.25)
  assert list(read_records(tmp_path)) == [
    {"step": 10, "split": "train", "loss": 1.5, "accuracy": 0.25}
  ]
  records.close()


def test_what_was_recorded_after_the_checkpoint_is_dropped_on_resuming(tmp_path):
  first = Records(tmp_path, 0)
  for step in (10, 20, 30):
    first.write(step, "train", loss=1.0)
    first.write(step, "validation", loss=2.0)
  first.close()
  second = Records(tmp_path, 20)
  second.write(30, "train", loss=1.0)
  second.close()
  assert pairs(tmp_path) == [
    (10, "train"),
    (10, "validation"),
    (20, "train"),
    (20, "validation"),
    (30, "train"),
  ]


def test_a_line_cut_by_a_kill_is_dropped(tmp_path):
  records = Records(tmp_path, 0)
  records.write(10, "train", loss=1.0)
  records.close()
  path = tmp_path / "metrics.jsonl"
  path.write_text(path.read_text() + '{"step": 20, "spl')
  assert [r["step"] for r in read_records(tmp_path)] == [10]
  Records(tmp_path, 20).close()
  assert pairs(tmp_path) == [(10, "train")]


def test_a_run_without_checkpoint_starts_its_records_anew(tmp_path):
  records = Records(tmp_path, 0)
  records.write(10, "train", loss=1.0)
  records.close()
  Records(tmp_path, 0).close()
  assert pairs(tmp_path) == []


def test_a_record_that_is_made_again_replaces_the_first(tmp_path):
  Records(tmp_path, 0).write(10, "train", loss=1.0)
  record_once(tmp_path, 10, "test", accuracy=0.5)
  record_once(tmp_path, 10, "test", accuracy=0.75)
  assert pairs(tmp_path) == [(10, "train"), (10, "test")]
  assert list(read_records(tmp_path))[-1]["accuracy"] == 0.75


def test_a_record_keeps_what_was_measured_with_the_other_weights_and_nothing_else(tmp_path):
  record_once(tmp_path, 10, "test", accuracy=0.5, unreadable=3)
  record_once(tmp_path, 10, "test", average=True, accuracy=0.75, unreadable=2)
  record_once(tmp_path, 10, "test", average=True, accuracy=0.625)
  kept = {"step": 10, "split": "test", "ema_accuracy": 0.625}
  assert list(read_records(tmp_path)) == [kept | {"accuracy": 0.5, "unreadable": 3}]
  record_once(tmp_path, 10, "test", accuracy=0.25)
  assert list(read_records(tmp_path)) == [kept | {"accuracy": 0.25}]


def test_tensorboard_gets_every_value_and_purges_what_a_resumed_run_repeats(tmp_path):
  first = Records(tmp_path, 0)
  first.write(10, "train", loss=1.5)
  first.write(20, "train", loss=1.25)
  first.close()
  second = Records(tmp_path, 10)
  second.write(20, "train", loss=1.25)
  second.close()
  events = [e for path in sorted(tmp_path.glob("events.*")) for e in read_events(path)]
  values = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
  assert sorted(values) == [(10, "train/loss", 1.5), *[(20, "train/loss", 1.25)] * 2]
  starts = [e for e in events if e.HasField("session_log")]
  assert [e.step for e in starts] == [1, 11]


def read_events(path):
  """The records of an event file: length, its checksum, data, its checksum."""
  data, at = path.read_bytes(), 0
  while at < len(data):
    length = int.from_bytes(data[at : at + 8], "little")
    yield Event.FromString(data[at + 12 : at + 12 + length])
    at += 12 + length + 4
