"""Real films, where they are at hand; and no test of training where torch is not installed."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import unavailable

if find_spec("torch") is None and os.environ.get("CI") != "true":  # an environment of requirements-test.txt
    collect_ignore_glob = ["*"]


@pytest.fixture(scope="session")
def real_films() -> Path:
    """NIH films with a manifest: TRIGGERSCOPE_FILMS, or shared/data beside the checkout."""
    root = Path(os.environ.get("TRIGGERSCOPE_FILMS", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / "nih" / "manifest.csv").exists():
        unavailable("no NIH films: set TRIGGERSCOPE_FILMS to a folder that holds nih/manifest.csv")
    return root / "nih"
