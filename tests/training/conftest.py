"""Real films, where they are at hand."""

import os
from pathlib import Path

import pytest

from tests.conftest import unavailable


@pytest.fixture(scope="session")
def real_films() -> Path:
    """NIH films with a manifest: TRIGGERSCOPE_FILMS, or shared/data beside the checkout."""
    root = Path(os.environ.get("TRIGGERSCOPE_FILMS", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / "nih" / "manifest.csv").exists():
        unavailable("no NIH films: set TRIGGERSCOPE_FILMS to a folder that holds nih/manifest.csv")
    return root / "nih"
