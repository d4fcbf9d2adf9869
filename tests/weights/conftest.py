"""Makes the references of PyTorch importable, which stand beside the tests of models."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "models"))
