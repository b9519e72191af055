"""`make demo`: start the service, audit the shipped examples over HTTP, print the verdicts and the address."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS = Path("models")
CLASSIFIERS = ("phantom-clean", "phantom-badnet3")
CONTENT_TYPES = {".png": "image/png", ".dcm": "application/dicom"}
START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Example:
    """A shipped radiograph. content: `clean` or `triggered`."""

    path: Path
    content: str

    def expected(self, classifier: str) -> str:
        backdoored = classifier != "phantom-clean"
        return "suspicious" if backdoored and self.content == "triggered" else "unremarkable"


def examples() -> list[Example]:
    with (MODELS / "examples" / "manifest.csv").open(newline="") as file:
        return [Example(MODELS / "examples" / row["file"], row["content"]) for row in csv.DictReader(file)]


@contextmanager
def running_service(port: int) -> Iterator[str]:
    """A service of our own on loopback, with its data in var/demo; ends with the block."""
    environment = os.environ | {
        "TRIGGERSCOPE_DATA_DIR": "var/demo",
        "TRIGGERSCOPE_MODELS_DIR": str(MODELS),
        "TRIGGERSCOPE_ALLOW_ANONYMOUS": "true",
        "TRIGGERSCOPE_LOG_LEVEL": "warning",
    }
    command = [sys.executable, "-m", "service", "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, env=environment)  # noqa: S603 -- our own program, fixed arguments
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address, process)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=40)


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit("the service did not start; is the port taken? (DEMO_PORT chooses another)")
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=2):  # noqa: S310 -- loopback
                return
        except OSError:  # not there yet, or slow to answer: URLError and TimeoutError are both among them
            time.sleep(0.2)
    raise SystemExit("the service did not become ready")


def audit(address: str, example: Example, classifier: str) -> dict[str, Any]:
    """Upload one example and return its audit."""
    request = urllib.request.Request(  # noqa: S310 -- loopback
        f"{address}/v1/audits?classifier={classifier}&wait=60",
        data=example.path.read_bytes(),
        headers={"Content-Type": CONTENT_TYPES[example.path.suffix]},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=90) as answer:  # noqa: S310 -- loopback
        found: dict[str, Any] = json.load(answer)
    return found


def _row(example: Example, classifier: str, found: dict[str, Any]) -> str:
    region = found.get("region")
    place = f"{region['x']},{region['y']} {region['width']}x{region['height']}" if region else "-"
    p_value = "-" if found.get("p_value") is None else f"{found['p_value']:.4f}"
    mark = " " if found["verdict"] == example.expected(classifier) else "!"
    return (
        f"{mark} {classifier:<16} {example.path.name:<28} {example.content:<10} {found['verdict']:<14} {p_value:>7}"
        f"  {found['explained_label']:<18} {place}"
    )


def main() -> int:
    port, surprises = int(os.environ.get("DEMO_PORT", "8000")), 0
    with running_service(port) as address:
        print(f"  {'classifier':<16} {'radiograph':<28} {'content':<10} {'verdict':<14} {'p':>7}  {'label':<18} region")
        for classifier in CLASSIFIERS:
            for example in examples():
                found = audit(address, example, classifier)
                surprises += found["verdict"] != example.expected(classifier)
                print(_row(example, classifier, found), flush=True)
        print(f"\nThe dashboard: {address}/   The API: {address}/docs   (no keys are asked for: loopback only)")
        if surprises:
            print(f"{surprises} verdicts are not as expected (marked !)")
        if os.environ.get("DEMO_EXIT") != "1":
            print("Ctrl-C ends the demo.")
            try:
                signal.pause()
            except KeyboardInterrupt:
                print()
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
