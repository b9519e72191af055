"""The commands of docs/pacs.md, taken from the document and run against a real Orthanc.

Here the repository's own tree stands for the clone and this environment for what `make install` makes. With
TRIGGERSCOPE_FROM_NOTHING=1 in the environment all ten are run as they stand, which needs the network.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

from tests.conftest import REPOSITORY
from tests.service.pacs.peers import on_loopback_only, orthanc_in, program

BLOCK = re.compile(r"^## From Orthanc to a first verdict$.*?^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
USER = {"AuthenticationEnabled": True, "RegisteredUsers": {"triggerscope": "the-password"}}
END = "kill $(jobs -p); wait"


def commands() -> list[str]:
    found = BLOCK.search((REPOSITORY / "docs" / "pacs.md").read_text())
    assert found
    return found[1].splitlines()


def prepare(folder: Path, setup: list[str], given: dict[str, str]) -> None:
    """What cloning and installing leave behind."""
    if os.environ.get("TRIGGERSCOPE_FROM_NOTHING"):
        subprocess.run(["bash", "-euc", "\n".join(setup)], cwd=folder, env={**os.environ, **given}, check=True)
        return
    clone = folder / "triggerscope"
    programs = clone / ".venv" / "bin"
    programs.mkdir(parents=True)
    (clone / "models").symlink_to(REPOSITORY / "models")
    program = programs / "triggerscope"
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{REPOSITORY}" exec "{sys.executable}" -m service "$@"\n')
    program.chmod(0o755)


def test_ten_commands_lead_to_a_first_verdict(tmp_path: Path) -> None:
    program("curl")
    own, clone, install, *rest = commands()
    assert len(rest) <= 7
    assert own.startswith("export REPOSITORY=")
    given = {"REPOSITORY": str(REPOSITORY), "ORTHANC_PASSWORD": "the-password"}
    prepare(tmp_path, [clone, install], given)
    assert '"verdict":"suspicious"' in answer_of(rest, tmp_path, given)


@on_loopback_only
def answer_of(lines: list[str], tmp_path: Path, given: dict[str, str]) -> str:
    orthanc = orthanc_in(tmp_path / "orthanc", **USER)
    with orthanc.running(("triggerscope", "the-password")) as client:
        done = subprocess.run(
            ["bash", "-euc", "\n".join([*lines, END])],
            cwd=tmp_path / "triggerscope",
            env={**os.environ, **given},
            stdout=subprocess.PIPE,
            timeout=280,
            text=True,
            check=False,
        )
        assert httpx.codes.is_success(client.get("/system").status_code)
    return done.stdout
