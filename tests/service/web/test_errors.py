import importlib
import pkgutil
import re

import service
from service.errors import TriggerscopeError
from service.web.errors import CATALOGUE, OFFLINE
from tests.conftest import REPOSITORY

ROW = re.compile(r"^\| `(\w+)` \| (\d*) ?\| (.*) \|$", re.MULTILINE)


def codes_of(kind: type[TriggerscopeError]) -> set[str]:
    """The codes of an error and all its kinds, wherever in the service they are defined."""
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if ".migrations." not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return _codes_of(kind)


def _codes_of(kind: type[TriggerscopeError]) -> set[str]:
    return {kind.code}.union(*(_codes_of(child) for child in kind.__subclasses__()))


def test_every_error_has_its_line_in_the_catalogue() -> None:
    assert codes_of(TriggerscopeError) <= set(CATALOGUE) | set(OFFLINE)


def test_the_catalogue_is_documented() -> None:
    documented = {code: (status, title) for code, status, title in ROW.findall(document())}
    wanted = {code: (str(kind.status), kind.title) for code, kind in CATALOGUE.items()}
    assert documented == wanted | {code: ("", title) for code, title in OFFLINE.items()}


def document() -> str:
    return (REPOSITORY / "docs" / "errors.md").read_text()
