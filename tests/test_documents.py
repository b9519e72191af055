"""What is written for readers: links lead somewhere, names exist, and documents say what the code says."""

import ast
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.__main__ import NOUNS
from service.commands.parser import new_parser
from tests.conftest import REPOSITORY
from training.__main__ import parser as training_parser
from training.show.tables import BEGIN, END, tables

README = REPOSITORY / "README.md"
CHANGELOG = REPOSITORY / "CHANGELOG.md"
EVIDENCE = REPOSITORY / "docs" / "evidence.md"
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
MOST_WORDS = 700
DOCUMENTS = [
    README,
    REPOSITORY / "CONTRIBUTING.md",
    CHANGELOG,
    REPOSITORY / "SECURITY.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *sorted((REPOSITORY / "models").glob("*.md")),
]
PRESENT = [path for path in DOCUMENTS if path != CHANGELOG]  # which names what was, too

FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
PATH = re.compile(r"(?<![\w./-])(?:service|training|tests|deploy|docs|models)/[\w./-]*[\w/]")
MODULE = re.compile(r"(?<![\w./-])(?:service|training|tests)(?:\.[a-z_0-9]\w*)+")
COMMAND = re.compile(r"(?<![\w./-])(triggerscope(?:-train)?)((?: --[a-z-]+ [\w./]+)*) ([a-z][a-z-]+)")
CODE = re.compile(r"`([^`\n]+)`")
ROOM = re.compile(r"^ *- `((?:service|training)/[\w/]*)` (.+)$", re.MULTILINE)
FIGURE = re.compile(r"\d[\d.]* (?:% )?\((?:band )?[\d.]+-[\d.]+(?: %)?\)")


def named(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings: lower case, no punctuation, hyphens for spaces, numbered when repeated."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(FENCE.sub("", document.read_text())):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(document: Path) -> Iterator[tuple[Path, str]]:
    """Relative links and images: the file that each leads to, and the heading in it."""
    for target in LINK.findall(FENCE.sub("", document.read_text())):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (document.parent / path if path else document), anchor


def code_of(document: Path) -> Iterator[str]:
    """Fenced blocks, indented blocks and code within lines."""
    text = document.read_text()
    yield from (match.group() for match in FENCE.finditer(text))
    rest = FENCE.sub("", text)
    yield from re.findall(r"^    .*$", rest, re.MULTILINE)
    yield from CODE.findall(rest)


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in links(document):
        assert path.exists(), f"{named(document)} links to {path}"
        assert path.resolve().is_relative_to(REPOSITORY)
        if anchor:
            assert anchor in anchors(path), f"{named(document)} links to #{anchor} of {named(path.resolve())}"


def test_every_document_is_found_from_the_readme() -> None:
    found, left = {README}, [README]
    while left:
        document = left.pop()
        for path, _ in links(document):
            target = path.resolve()
            if target.suffix == ".md" and target not in found:
                found.add(target)
                left.append(target)
    assert set(DOCUMENTS) <= found


def test_the_readme_is_short_and_says_how_to_start() -> None:
    text = README.read_text()
    assert len(text.split()) <= MOST_WORDS
    blocks = "\n".join(match.group() for match in FENCE.finditer(text))
    assert re.search(r"^make demo\b", blocks, re.MULTILINE)
    assert re.search(r"^make test\b", blocks, re.MULTILINE)


def test_figures_of_the_readme_stand_in_the_evidence() -> None:
    figures = FIGURE.findall(README.read_text())
    assert len(figures) >= 3
    evidence = EVIDENCE.read_text()
    assert [figure for figure in figures if figure not in evidence] == []


def test_the_tables_of_the_evidence_are_those_of_the_results() -> None:
    """Made by the command that the document shows."""
    text = EVIDENCE.read_text()
    [command] = re.findall(r"^triggerscope-train tables .*?\n```$", text, re.MULTILINE | re.DOTALL)
    words = shlex.split(command.removesuffix("```").replace("\\\n", " "))
    arguments = training_parser().parse_args(words[1:])
    assert REPOSITORY / arguments.document == EVIDENCE
    files = [[REPOSITORY / path for path in group] for group in (arguments.results, arguments.pooled)]
    shown = text.partition(f"{BEGIN}\n")[2].partition(f"\n{END}")[0]
    assert shown == tables(*files)


@pytest.mark.parametrize("document", PRESENT, ids=named)
def test_files_and_modules_that_are_named_exist(document: Path) -> None:
    text = document.read_text()
    paths = [path for path in PATH.findall(LINK.sub("", text)) if not exists(path)]
    modules = [module for code in code_of(document) for module in MODULE.findall(code) if not is_module(module)]
    modules += [module for module in re.findall(r"python -m ([\w.]+\w)", text) if not is_module(module)]
    assert paths + modules == []


def exists(path: str) -> bool:
    """A file or folder; of what readers make themselves nothing is asked."""
    return (REPOSITORY / path).exists() or "NAME" in path or path.startswith("models/theirs.")


def is_module(name: str) -> bool:
    """A module, a package, or a name in one."""
    module = REPOSITORY / name.replace(".", "/")
    return module.is_dir() or module.with_suffix(".py").is_file() or module.parent.with_suffix(".py").is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_commands_that_are_named_exist(document: Path) -> None:
    known = {"triggerscope": service_commands(), "triggerscope-train": training_commands()}
    for code in code_of(document):
        for program, _options, command in COMMAND.findall(code):
            assert command in known[program], f"{named(document)} names `{program} {command}`"


def service_commands() -> set[str]:
    _, commands = new_parser("")
    for noun in NOUNS:
        noun.add(commands)
    return set(commands.choices)


def training_commands() -> set[str]:
    [commands] = [action for action in training_parser()._actions if hasattr(action, "choices") and action.choices]
    return set(commands.choices)


def test_architecture_repeats_what_each_folder_says_of_itself() -> None:
    said = {
        f"{named(folder)}/": sentence(folder / "__init__.py")
        for root in ("service", "training")
        for folder in (path.parent for path in (REPOSITORY / root).rglob("__init__.py"))
    }
    written = ROOM.findall(ARCHITECTURE.read_text())
    assert len(written) == len(dict(written))
    assert dict(written) == said


def sentence(module: Path) -> str:
    """The first paragraph of a module's docstring, which has to be one sentence."""
    words = " ".join((ast.get_docstring(ast.parse(module.read_text())) or "").split("\n\n")[0].split())
    assert words.endswith("."), f"{named(module)} begins with no sentence"
    assert not re.search(r"[.!?] [A-Z]", words), f"{named(module)} begins with more than one sentence"
    return words


def test_architecture_names_every_loose_file() -> None:
    text = ARCHITECTURE.read_text()
    loose = [path for root in ("service", "training") for path in sorted((REPOSITORY / root).glob("*.py"))]
    assert [named(path) for path in loose if path.stem != "__init__" and f"`{named(path)}`" not in text] == []


def test_architecture_describes_floors_and_contracts() -> None:
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [floors] = [block.group() for block in FENCE.finditer(ARCHITECTURE.read_text())]
    drawn = re.findall(r"^(\w[\w| ]*\w)(?:$|  )", floors, re.MULTILINE)
    assert drawn == [layer for layer in contracts[0]["layers"] if not layer.startswith("(")]
    described = re.findall(r"^- \*\*(.+?)\*\*: ", ARCHITECTURE.read_text(), re.MULTILINE)
    assert described == [contract["name"] for contract in contracts]
