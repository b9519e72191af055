"""Light starts: a command loads what it uses."""

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.service.serving import png

MOST_MB = 60
PROGRAM = """
import json, re, sys
from pathlib import Path
from service.__main__ import main
try:
    status = main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
print(json.dumps([status, peak, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""
HEAVY = {
    "sqlalchemy", "alembic", "pydantic", "pydantic_settings", "fastapi", "starlette", "httpx", "pynetdicom",
    "highdicom", "jinja2", "structlog", "prometheus_client", "authlib", "argon2", "cryptography",
}  # fmt: skip


def started(*words: str) -> tuple[int, float, set[str]]:
    """Exit status, peak of resident memory in MB, and the packages that were loaded."""
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    status, peak, packages = json.loads(done.stderr.splitlines()[-1])
    return status, peak, set(packages)


def test_help_is_small() -> None:
    status, peak, packages = started("--help")
    assert status == 0
    assert peak < MOST_MB
    assert packages & (HEAVY | {"numpy", "onnxruntime", "pydicom"}) == set()


def test_an_audit_of_files_loads_no_database_no_web_and_no_settings_library(tmp_path: Path, models_dir: Path) -> None:
    film = tmp_path / "film.png"
    film.write_bytes(png(1))
    words = ("--models-dir", str(models_dir), "audit", "--classifier", "phantom-clean", str(film))
    status, _, packages = started(*words)
    assert status == 0
    assert packages & HEAVY == set()
