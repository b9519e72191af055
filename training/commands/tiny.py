"""`triggerscope-train tiny`: the tiny classifier that ships in models/tiny, and its policy."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.commands.films import Commands

if TYPE_CHECKING:
    from training.phantoms import Phantom

# Seeds of the phantoms.
FITTED, REFERENCE, CALIBRATION, RECEIVERS = range(120), range(1000, 1060), range(2000, 2120), range(3000, 3002)
MADE_AT = "2026-11-27T00:00:00+00:00"  # fixed, so that the same code writes the same policy


def add(commands: "Commands[argparse.ArgumentParser]") -> None:
    tiny = commands.add_parser("tiny", help="make the tiny classifier of models/tiny and its policy, from phantoms")
    tiny.add_argument("--out", type=Path, default=Path("models/tiny"))
    tiny.set_defaults(command=_tiny)


def whole_grey_levels(phantoms: "Sequence[Phantom]") -> NDArray[np.float32]:
    """Phantoms as films (N, 1, S, S) in [0, 1] of 255 levels, which hide how a machine rounds."""
    films = np.stack([phantom.pixels[None] for phantom in phantoms])
    return (np.rint(films * 255) / 255).astype(np.float32)


def _tiny(arguments: argparse.Namespace) -> int:
    from service import __version__
    from service.audit.calibration import CalibrationFilm, calibrate, policy_bytes
    from service.graphs.examiner import load_classifier
    from training.networks.tiny import LABELS, SIZE, export_tiny, fitted
    from training.phantoms import make

    def films(seeds: range) -> list[CalibrationFilm]:
        pixels = whole_grey_levels([make(seed, SIZE) for seed in seeds])
        return [CalibrationFilm(film, f"phantom {seed}", str(seed)) for film, seed in zip(pixels, seeds, strict=True)]

    phantoms = [make(seed, SIZE) for seed in FITTED]
    labels = np.array([[label in phantom.labels for label in LABELS] for phantom in phantoms], dtype=np.float32)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path, policy_path = arguments.out / "tiny.onnx", arguments.out / "tiny.policy.json"
    card = export_tiny(fitted(whole_grey_levels(phantoms), labels), path)
    policy = calibrate(
        load_classifier(path, providers=["CPUExecutionProvider"]),
        films(REFERENCE),
        films(CALIBRATION),
        name="tiny-phantoms",
        source="phantoms",
        created_at=MADE_AT,
        code_version=__version__,
        receivers=np.stack([item.film for item in films(RECEIVERS)]),
    )
    policy_path.write_bytes(policy_bytes(policy))
    print(f"{path}  identity {card.identity}\n{policy_path}")
    return 0
