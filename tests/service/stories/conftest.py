"""Stories that begin at a PACS use its fixtures."""

from tests.service.pacs.conftest import acceptance, opened, settings

__all__ = ["acceptance", "opened", "settings"]
