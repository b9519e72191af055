"""What a boxed process cannot do any more, tried in real processes."""

import subprocess
import sys

import pytest

from service.sandbox.child import PACKAGE_ROOT

BEFORE = "import sys; from service.sandbox.restrictions import restrict, address_space_bytes, limit_memory\n"


def boxed(code: str, restrictions: str = "restrict()") -> subprocess.CompletedProcess[str]:
    program = f"{BEFORE}missing = {restrictions}\n{code}"
    environment = {"PYTHONPATH": str(PACKAGE_ROOT)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, env=environment
    )


def test_this_kernel_takes_everything_away() -> None:
    """On a kernel that lacks something the report of an examination names it."""
    assert boxed("print(missing)").stdout.strip() == "[]"


@pytest.mark.parametrize(
    "tried",
    [
        "import socket; socket.socket()",
        "import socket; socket.socketpair()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.execv('/bin/true', ['true'])",
        "open(FILE, 'w')",
        "open(FILE, 'a')",
        "import os; os.unlink(FILE)",
        "import os; os.rename(FILE, FILE + '2')",
        "import os; os.chmod(FILE, 0o777)",
        "import os; os.mkdir(FILE + '3')",
        "import os; os.symlink(FILE, FILE + '4')",
        "import os; os.truncate(FILE, 0)",
        "import os; os.kill(os.getppid(), 0)",
    ],
)
def test_network_programs_and_files_are_closed(tried: str, tmp_path: object) -> None:
    file = f"{tmp_path}/kept.txt"
    with open(file, "w") as kept:  # noqa: PTH123
        kept.write("kept")
    ended = boxed(f"FILE = {file!r}\ntry:\n    {tried}\nexcept PermissionError:\n    print('refused')")
    assert ended.stdout.strip() == "refused", ended.stderr
    with open(file) as kept:  # noqa: PTH123
        assert kept.read() == "kept"


def test_reading_and_computing_go_on() -> None:
    ended = boxed("import numpy; print(len(open(sys.executable, 'rb').read(4)), numpy.ones((9, 9)).sum())")
    assert ended.stdout.split() == ["4", "81.0"], ended.stderr


def test_memory_above_the_limit_is_an_error_and_not_the_machines() -> None:
    code = "limit_memory(64 << 20, address_space_bytes())\ntry:\n    bytearray(256 << 20)\n"
    assert boxed(f"{code}except MemoryError:\n    print('no')").stdout.strip() == "no"


def test_a_process_that_computes_too_long_ends() -> None:
    ended = boxed("while True: pass", "restrict(cpu_seconds=1)")
    assert ended.returncode < 0
