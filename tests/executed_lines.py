"""Which lines of given files are executed, and which there are.

Counted are lines of functions, for modules are imported before, but not those that raise, for what is refused has no
score.
A few lines of tracing instead of a package: what counts is listed by hand in the test that asks.
"""

import ast
import inspect
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

Lines = dict[Path, set[int]]


@contextmanager
def executed(files: list[Path]) -> Iterator[Lines]:
    """Fills the sets while it is entered, in this thread and in those that are started meanwhile."""
    found: Lines = {path: set() for path in files}
    by_name = {str(path): lines for path, lines in found.items()}

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        lines = by_name.get(frame.f_code.co_filename)
        if lines is None:
            return None
        if event in ("call", "line"):
            lines.add(frame.f_lineno)
        return trace

    before = sys.gettrace(), threading.gettrace()
    sys.settrace(trace)
    threading.settrace(trace)
    try:
        yield found
    finally:
        sys.settrace(before[0])
        threading.settrace(before[1])  # type: ignore[arg-type]  # None takes the hook away, which the stub leaves out


def executable(path: Path, exempt: tuple[str, ...] = ()) -> set[int]:
    """The lines of a file's functions; their heads, docstrings and `raise` statements are left out. exempt: qualified
    names of functions that are left out with all that is in them."""
    source = path.read_text()
    return _lines(compile(source, str(path), "exec"), exempt) - _raising(source)


def _raising(source: str) -> set[int]:
    statements = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Raise)]
    return {line for node in statements for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def _lines(code: CodeType, exempt: tuple[str, ...]) -> set[int]:
    found: set[int] = set()
    if code.co_flags & inspect.CO_OPTIMIZED:  # a function, not a class or module
        found = {line for _, _, line in code.co_lines() if line}
        if not code.co_name.startswith("<"):
            found -= {code.co_firstlineno}
    for item in code.co_consts:
        if isinstance(item, CodeType) and item.co_qualname not in exempt:
            found |= _lines(item, exempt)
    return found
