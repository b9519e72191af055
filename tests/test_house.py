"""The house: how many files a room holds, what they are called, who may lean on whom, and where tests stand."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

MOST_LOOSE, MOST_MODULES = 10, 14
TECHNIQUES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "core", "lib", "shared"}
PACKAGES = [path.parent for name in ("service", "training") for path in sorted(Path(name).rglob("__init__.py"))]
STORIES = "stories"  # tests that go through several rooms
SQL_ALLOWED = {"sqlalchemy.exc", "sqlalchemy.orm.Session"}

CIRCLES = "No two rooms lean on each other"
# One wrong import for each contract: the module that gets it, what it imports, and the contract that has to say so.
WRONG = [
    ("service/films/png.py", "service.audit.verdict", "The house: every room is on its floor"),
    ("service/audit/likeness.py", "service.records.storage", "The house: every room is on its floor"),
    ("service/records/chain.py", "service.people.keys", "The house: every room is on its floor"),
    ("service/ledger/merkle.py", "service.people.rates", "The house: every room is on its floor"),
    ("service/registry/drift.py", "service.desk.review", "The house: every room is on its floor"),
    ("service/desk/releases.py", "service.queue.intake", "The house: every room is on its floor"),
    ("service/queue/sweep.py", "service.pacs.identity", "The house: every room is on its floor"),
    ("service/pacs/echo_twice.py", "service.web.stow", "The house: every room is on its floor"),
    ("service/names.py", "service.logs", "The house: every room is on its floor"),
    ("service/web/api/hooks.py", "service.web.dashboard.pages", "Inside web: pages over the API over what both share"),
    ("service/web/upload.py", "service.web.stow", "Inside web: pages over the API over what both share"),
    ("training/measure/survival.py", "training.show.tables", CIRCLES),
    ("service/web/stow.py", "alembic", "Only the records speak SQL"),
    (
        "service/audit/likeness.py",
        "sqlalchemy",
        "The core and the offline commands need no database, no web, no settings library",
    ),
    (
        "service/offline/models.py",
        "pydantic_settings",
        "The core and the offline commands need no database, no web, no settings library",
    ),
    ("service/queue/sweep.py", "fastapi", "Nobody below web knows HTTP"),
    ("service/audit/ranking.py", "torch", "The service needs neither torch nor training"),
    ("service/offline/audits.py", "training.metrics", "The service needs neither torch nor training"),
    ("training/attack/triggers.py", "service.desk.review", "Training borrows the core only"),
    ("training/metrics.py", "service.names", "Training borrows the core only"),
    ("service/ledger/bundle_verifier.py", "service.errors", "The bundle's verifier stands alone"),
]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def modules_of(package: Path) -> list[Path]:
    return [path for path in sorted((REPOSITORY / package).glob("*.py")) if path.name != "__init__.py"]


def test_few_files_lie_loose() -> None:
    assert len(list(Path("service").glob("*.py"))) <= MOST_LOOSE


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_a_room_is_small_and_says_in_one_sentence_what_it_is_for(package: Path) -> None:
    assert len(modules_of(package)) <= MOST_MODULES or package.name == "versions"
    said = ast.get_docstring(ast.parse((REPOSITORY / package / "__init__.py").read_text()))
    assert said, package
    sentence = said.partition("\n\n")[0]
    assert sentence.endswith("."), sentence
    assert not re.search(r"\.\s+[A-Z]", sentence), sentence


def test_nothing_is_named_after_a_technique() -> None:
    names = {part for package in PACKAGES for part in package.parts}
    names |= {path.stem for package in PACKAGES for path in modules_of(package)}
    assert names & TECHNIQUES == set()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("house")
    for name in ("service", "training"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.pt", "*.json", "*.csv")
        )
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


def lint(folder: Path) -> str:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(folder), "COLUMNS": "400"},
        check=False,
    )
    return done.stdout + done.stderr


def test_each_wrong_import_is_caught(copy: Path, tmp_path: Path) -> None:
    """All at once in a scratch copy: every contract breaks, and names each of its wrong imports."""
    folder = tmp_path / "copy"
    shutil.copytree(copy, folder)
    for place, target, _ in WRONG:
        with (folder / place).open("a") as file:
            file.write(f"\nimport {target}\n")
    text = lint(folder)
    assert "0 kept" in text, text
    _, *reports = re.split(r"\n(?=[^\n]+\n-+\n\n)", text.partition("Broken contracts")[2])
    said = {report.partition("\n")[0].strip(): report for report in reports}
    for place, target, contract in WRONG:
        source = place.removesuffix(".py").replace("/", ".")
        if contract == CIRCLES:  # which names rooms, not modules
            source, target = (f".{name.split('.')[1]}" for name in (source, target))
        top = target if target.startswith(("service", "training", ".")) else target.partition(".")[0]
        assert source in said[contract], (place, target)
        assert top in said[contract], (place, target)


def test_a_stray_module_is_caught(copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(copy, folder)
    (folder / "service" / "utils.py").write_text('"""Odds and ends."""\n')
    text = lint(folder)
    assert "1 broken" in text
    assert "service.utils" in text


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module if node.module in SQL_ALLOWED else f"{node.module}.{a.name}" for a in node.names)


def speaks_sql(folder: Path) -> list[str]:
    found = []
    for path in sorted((folder / "service").rglob("*.py")):
        if path.relative_to(folder / "service").parts[0] != "records":
            found += [f"{path.name}: {name}" for name in imported(path) if name.partition(".")[0] == "sqlalchemy"]
    return [line for line in found if line.partition(": ")[2] not in SQL_ALLOWED]


def test_statements_stand_in_the_records_only(copy: Path, tmp_path: Path) -> None:
    """Outside of them SQLAlchemy is a session to hand on and errors to catch."""
    assert speaks_sql(REPOSITORY) == []
    folder = tmp_path / "copy"
    shutil.copytree(copy, folder)
    with (folder / "service" / "desk" / "review.py").open("a") as file:
        file.write("\nfrom sqlalchemy import select\n")
    assert speaks_sql(folder) == ["review.py: sqlalchemy.select"]


def test_tests_mirror_the_rooms() -> None:
    """A test file stands in the folder of the module that begins its name, or among the stories."""
    astray = []
    for path in sorted(Path("tests").rglob("test_*.py")):
        folder = path.parent.relative_to("tests")
        if STORIES in folder.parts or folder.parts[:1] in ((), ("browser",)):
            continue
        names = {p.stem.strip("_") for p in modules_of(folder)} | {p.name for p in Path(folder).iterdir() if p.is_dir()}
        subject = path.stem.removeprefix("test_")
        if not any(subject == name or subject.startswith(f"{name}_") for name in {*names, folder.name}):
            astray.append(str(path))
    assert astray == []


def test_every_room_has_tests() -> None:
    """A folder of its own, or one file for a small room; the migrations are tested through the records."""
    untested = []
    for package in PACKAGES:
        folder = Path("tests") / package
        if (
            modules_of(package)
            and "migrations" not in package.parts
            and not folder.is_dir()
            and not (folder.parent / f"test_{package.name}.py").exists()
        ):
            untested.append(str(package))
    assert untested == []
