"""The wheel: what it holds, and that it works outside a clone."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("wheel")
  source = folder / "source"  # a copy: building leaves files beside what it builds
  source.mkdir()
  names = ("resnet_jax", "experiments", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
  for name in names:
    copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
    copy(ROOT / name, source / name)
  command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
  subprocess.run([sys.executable, "-m", *command, source], check=True, timeout=120)
  return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_alone_and_all_of_it(wheel):
  names = [n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n]
  assert {name.split("/")[0] for name in names} == {"resnet_jax"}
  assert "resnet_jax/py.typed" in names
  sources = {p.relative_to(ROOT) for p in (ROOT / "resnet_jax").rglob("*") if p.is_file()}
  sources = {str(p) for p in sources if "__pycache__" not in p.parts}
  experiments = {f"resnet_jax/{p.relative_to(ROOT)}" for p in (ROOT / "experiments").rglob("*.py")}
  assert set(names) == sources | experiments


def test_built_in_experiments_resolve_by_name_outside_a_clone(wheel, tmp_path):
  site = tmp_path / "site"
  zipfile.ZipFile(wheel).extractall(site)
  code = """
import resnet_jax
from resnet_jax.launch.sweep_file import built_in_sweeps, read_sweep
from resnet_jax.run.config import built_in_names, load_config
from resnet_jax.training import Config
print(resnet_jax.__file__, built_in_names(), load_config("cifar10:plain32", Config).model.name)
print(built_in_sweeps(), len(read_sweep("digits")))
"""
  out = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"PYTHONPATH": str(site)},
    cwd=tmp_path,
    check=True,
    capture_output=True,
    text=True,
    timeout=120,
  ).stdout
  assert out.startswith(str(site))
  assert "['cifar10', 'digits', 'finetune', 'imagenet'] plain32" in out
  assert "['cifar10_table6', 'digits', 'digits_search', 'imagenet_lars'] 6" in out
