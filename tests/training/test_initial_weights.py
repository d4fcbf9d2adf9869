"""Runs that start from the weights of another: which fit, what is said, what stays."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from resnet_jax.data import DataConfig, SyntheticConfig
from resnet_jax.errors import UserError
from resnet_jax.models import ModelConfig
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.workdir import claim
from resnet_jax.training import CheckpointConfig, Config, OptimizerConfig, fit
from resnet_jax.training.build import build_run
from resnet_jax.training.restore import (
  initial_state,
  random_state,
  require_initial_weights,
  restore_variables,
  to_stored,
)
from resnet_jax.training.weight_source import split_source

SMALL = {"stage_sizes": (3,), "width": 4}
CONFIG = Config(
  model=ModelConfig("resnet20", SMALL),
  data=DataConfig("synthetic", synthetic=SyntheticConfig(40, 10, image_size=8)),
  batch_size=16,
  length="4 steps",
  log_every="2 steps",
  evaluate_every="2 steps",
  checkpoint=CheckpointConfig(keep=4),
)
SEVEN = DataConfig("synthetic", synthetic=SyntheticConfig(40, 10, image_size=8, num_classes=7))


def change(config=CONFIG, model=(), **fields):
  model = ModelConfig(config.model.name, config.model.overrides | dict(model))
  return dataclasses.replace(config, model=model, **fields)


def train(config, workdir, **rest):
  workdir.mkdir(exist_ok=True)
  claim(workdir, config, ())
  return jax.device_get(fit(build_run(config), workdir, **rest))


def equal(a, b):
  jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), a, b)


def begin(config):
  return jax.device_get(initial_state(build_run(config)))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A run of four steps: its workdir and its last state."""
  workdir = tmp_path_factory.mktemp("source")
  return workdir, train(CONFIG, workdir)


@pytest.mark.parametrize(
  ("text", "directory", "checkpoint"),
  [
    ("runs/a", "runs/a", "last"),
    ("runs/a:last", "runs/a", "last"),
    ("runs/a:best", "runs/a", "best"),
    ("runs/a:120", "runs/a", "120"),
    ("C:/runs/a", "C:/runs/a", "last"),
    ("runs/lr:0.1", "runs/lr:0.1", "last"),
    ("runs/lr:1:best", "runs/lr:1", "best"),
  ],
)
def test_only_a_last_part_that_is_best_last_or_a_step_is_none_of_the_directory_s_name(
  text, directory, checkpoint
):
  found, which = split_source(text)
  assert (str(found), which) == (directory, checkpoint)


def test_weights_and_statistics_are_the_other_run_s_and_all_else_begins_at_zero(source, capsys):
  workdir, state = source
  config = change(init_from=str(workdir), seed=1, ema_decay=0.9)
  start, fresh = begin(config), jax.device_get(random_state(build_run(config)))
  assert capsys.readouterr().out == f"weights of step 4 of {workdir}\n"
  equal(start.variables, state.variables)
  equal(start.average, state.variables)
  assert start.step == 0
  equal(start.opt_state, fresh.opt_state)


def test_a_path_with_a_colon_and_a_step_or_the_best_one_are_found(source, tmp_path, capsys):
  odd = tmp_path / "lr:0.1"
  shutil.copytree(source[0], odd)
  run = build_run(CONFIG)
  best = Checkpoints(odd, read_only=True).best()
  for suffix, step in [("", 4), (":last", 4), (":2", 2), (":best", best)]:
    start = begin(change(init_from=f"{odd}{suffix}"))
    assert capsys.readouterr().out == f"weights of step {step} of {odd}\n"
    equal(start.variables, jax.device_get(restore_variables(run, odd, str(step))[1]))


def test_a_classifier_of_another_size_starts_at_random_if_it_is_reset(source, capsys):
  workdir, state = source
  config = change(data=SEVEN, init_from=str(workdir), reset=("head/*",), seed=3)
  start, fresh = begin(config), jax.device_get(random_state(build_run(config)))
  assert capsys.readouterr().out == (
    f"weights of step 4 of {workdir}; head/bias, head/kernel start at random\n"
  )
  equal(start.params["head"], fresh.params["head"])
  assert start.params["head"]["kernel"].shape == (4, 7)
  for name in ("stem", "stage1"):
    equal(start.params[name], state.params[name])
  equal(start.batch_stats, state.batch_stats)


@pytest.mark.parametrize("patterns", [("stage1/block2/*",), ("*block2/*/scale", "*block2/*/bias")])
def test_statistics_of_a_batch_norm_that_is_reset_begin_anew(patterns, source):
  start = begin(change(init_from=str(source[0]), reset=patterns))
  statistics, before = start.batch_stats["stage1"], source[1].batch_stats["stage1"]
  for norm in statistics["block2"].values():
    np.testing.assert_array_equal(norm["mean"], 0)
    np.testing.assert_array_equal(norm["var"], 1)
  equal(statistics["block1"], before["block1"])


def test_statistics_stay_where_only_a_part_of_their_norm_is_reset(source):
  start = begin(change(init_from=str(source[0]), reset=("*block2/*/bias",)))
  equal(start.batch_stats, source[1].batch_stats)


@pytest.mark.parametrize("scan", [True, False])
def test_blocks_that_one_of_the_two_runs_scans_are_the_same_blocks(scan, source, tmp_path):
  config, workdir = CONFIG, source[0]
  if scan:
    config = change(model={"scan": True})
  else:
    workdir = tmp_path
    train(change(model={"scan": True}, length="1 steps"), workdir)
  # One of the blocks that are scanned together: a pattern speaks of the unrolled ones.
  config = change(config, init_from=str(workdir), reset=("stage1/block3/*",), seed=5)
  run = build_run(config)
  assert require_initial_weights(run, tmp_path / "new").startswith("weights of step")
  start, fresh = (jax.device_get(to_stored(run, f(run))) for f in (initial_state, random_state))
  unrolled = build_run(change(model={"scan": False}))
  _, expected = restore_variables(unrolled, workdir, "last")
  equal(start.params["stage1"]["block2"], jax.device_get(expected["params"]["stage1"]["block2"]))
  equal(start.params["stage1"]["block3"], fresh.params["stage1"]["block3"])


def test_weights_are_cast_to_the_new_network_s_dtype(source):
  start = begin(change(model={"param_dtype": "float16"}, init_from=str(source[0])))
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float16), strict=True),
    start.params,
    source[1].params,
  )
  equal(start.batch_stats, source[1].batch_stats)


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    (
      {"data": SEVEN},
      ["head/bias is float32[10], not float32[7]", "--config.reset 'head/*'"],
    ),
    (
      {"model": {"stage_sizes": (4,)}},
      ["stage1/block4/", "is missing", "--config.reset 'stage1/block4/*'"],
    ),
    (
      {"model": {"stage_sizes": (2,)}, "data": SEVEN, "reset": ("head/*",)},
      ["stage1/block3/", "is left over", "--config.reset 'head/*' 'stage1/block3/*'"],
    ),
    ({"model": {"width": 8}}, ["more. Start from a run of the same network"]),
    ({"reset": ("haed/*",)}, ["reset", "'haed/*'", "head/kernel"]),
    ({"reset": ("*",)}, ["every parameter fits", "nothing of step 4"]),
  ],
)
def test_what_does_not_fit_is_refused_by_name_with_a_way_on(changes, words, source, tmp_path):
  run = build_run(change(init_from=str(source[0]), **changes))
  for refuse in (lambda: require_initial_weights(run, tmp_path), lambda: initial_state(run)):
    with pytest.raises(UserError) as error:
      refuse()
    for word in words:
      assert word in str(error.value)


def test_what_only_the_other_run_has_is_left_out_if_it_is_reset(source):
  config = change(model={"stage_sizes": (2,)}, reset=("stage1/block3/*",), init_from=str(source[0]))
  start = begin(config)
  assert start.params["stage1"].keys() == {"block1", "block2"}
  equal(start.params["stage1"]["block2"], source[1].params["stage1"]["block2"])


def test_a_source_that_is_no_run_has_no_such_checkpoint_or_is_damaged_is_refused(source, tmp_path):
  new = tmp_path / "new"

  def refused(init_from, match):
    with pytest.raises(UserError, match=rf"^init_from={init_from}.*{match}"):
      require_initial_weights(build_run(change(init_from=str(init_from))), new)

  refused(tmp_path / "none", "not the directory of a run")
  refused(f"{source[0]}:7", r"no checkpoint of step 7; there are \[2, 4\]")
  (tmp_path / "empty").mkdir()
  claim(tmp_path / "empty", CONFIG, ())
  refused(tmp_path / "empty", "has no checkpoint")
  refused(f"{tmp_path}/empty:best", "has no checkpoint")
  refused(new, "--workdir itself")
  shutil.copytree(source[0], tmp_path / "damaged")
  (tmp_path / "damaged" / "checkpoints" / "4" / "run.json").write_text("{}")
  refused(tmp_path / "damaged", r"damaged \(run.json.*whole: 2")
  assert not new.exists()


def test_a_run_that_began_so_resumes_to_the_same_bits_without_the_other(source, tmp_path):
  other = tmp_path / "other"
  shutil.copytree(source[0], other)
  config = change(init_from=str(other), reset=("head/*",), data=SEVEN, ema_decay=0.9)
  whole = train(config, tmp_path / "whole")
  train(config, tmp_path / "stopped", should_stop=(1).__eq__)
  shutil.rmtree(other)
  run = build_run(config)
  assert require_initial_weights(run, tmp_path / "stopped") is None
  equal(jax.device_get(fit(run, tmp_path / "stopped")), whole)


@pytest.mark.parametrize(
  "optimizer",
  ["adamw", *(pytest.param(name, marks=pytest.mark.long) for name in ("sgd", "lars"))],
)
def test_fine_tuning_moves_what_is_not_frozen_and_no_bit_of_the_rest(optimizer, source, tmp_path):
  workdir, state = source
  config = change(
    model={"frozen_bn": True},
    data=SEVEN,
    init_from=str(workdir),
    reset=("head/*",),
    frozen=("stem/*", "stage1/*"),
    optimizer=OptimizerConfig(name=optimizer, learning_rate=0.01),
  )
  start = begin(config)
  tuned = train(config, tmp_path)
  for name in ("stem", "stage1"):
    equal(tuned.params[name], state.params[name])
  equal(tuned.batch_stats, state.batch_stats)
  for name, before in start.params["head"].items():
    assert np.all(before != tuned.params["head"][name])


def test_what_is_frozen_keeps_its_bits_while_its_batch_norms_go_on_measuring(tmp_path):
  config = change(frozen=("stem/*", "*/scale"))
  start = begin(config)
  trained = train(config, tmp_path)
  equal(trained.params["stem"], start.params["stem"])
  block, before = (state.params["stage1"]["block1"] for state in (trained, start))
  equal(block["norm1"]["scale"], before["norm1"]["scale"])
  assert np.all(block["conv1"]["kernel"] != before["conv1"]["kernel"])
  for before in jax.tree.leaves(start.batch_stats):
    assert np.all(before == before[0])
  for after in jax.tree.leaves(trained.batch_stats["stem"]):
    assert np.any(after != after[0])
