"""XLA options of the tests: those that the installed XLA does not know are left out."""

import pytest
from quick_compilation import known_to_xla

KNOWN = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
UNKNOWN = ["--xla_no_such_option=1", "--xla_nor_this=false"]


@pytest.mark.parametrize("unknown", [[], UNKNOWN])
def test_only_options_that_the_installed_xla_knows_are_set(unknown):
  assert known_to_xla([*unknown, *KNOWN]) == KNOWN


def test_no_option_is_set_where_jax_does_not_start(monkeypatch):
  monkeypatch.setattr("sys.executable", "false")
  assert known_to_xla(KNOWN) == []
