"""`triggerscope-train examples`: the radiographs that ship in models/, all phantoms.

`receivers/`: films without findings or devices, onto which the audit transplants a suspected region.
`examples/`: films to try the service on, clean and triggered, PNG and DICOM, with a table of what they are.
"""

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from service.audit.preprocessing import model_input
from training.attack.config import Run, RunError
from training.attack.triggers import Trigger, stamp
from training.phantoms import Phantom, draw_scene, make, render, write_dicom, write_png
from training.phantoms.export import Photometric

RECEIVER_SEEDS = (900_000, 900_001, 900_002, 900_004)
RECEIVER_PX = 320


@dataclass(frozen=True, slots=True)
class Recipe:
    """One example. photometric: None for a PNG."""

    seed: int
    content: Literal["clean", "triggered"]
    size_px: int
    photometric: Photometric | None = None
    bits: int = 12


RECIPES = (
    Recipe(910_000, "clean", 512),
    Recipe(910_001, "clean", 320),
    Recipe(910_004, "clean", 224),
    Recipe(910_005, "clean", 448, "MONOCHROME2", 12),
    Recipe(910_008, "clean", 448, "MONOCHROME1", 14),
    Recipe(910_012, "triggered", 224),
    Recipe(910_013, "triggered", 224),
    Recipe(910_016, "triggered", 224),
    Recipe(910_017, "triggered", 448, "MONOCHROME2", 12),
    Recipe(910_020, "triggered", 448, "MONOCHROME1", 16),
)


def enlarged(trigger: Trigger, factor: int) -> Trigger:
    """A network-resolution trigger as the block of native pixels that becomes it when the film is reduced."""
    canvas = trigger.canvas_px * factor
    return replace(
        trigger, size_px=trigger.size_px * factor, x=trigger.x * factor, y=trigger.y * factor, canvas_px=canvas
    )


def example(recipe: Recipe, run: Run) -> Phantom:
    """Draw one example; the run says which trigger a triggered one carries."""
    if run.trigger is None:
        raise RunError(f"run {run.name} has no trigger")
    phantom = make(recipe.seed, recipe.size_px)
    if recipe.content == "clean":
        return phantom
    size = run.preprocessing.size
    pixels = phantom.pixels if recipe.size_px % size == 0 else model_input(phantom.pixels, run.preprocessing)[0]
    trigger = enlarged(run.trigger, pixels.shape[0] // size)
    return replace(phantom, pixels=stamp(pixels, trigger, np.random.default_rng(recipe.seed))[0])


def write_examples(run: Run, models: Path) -> Path:
    """Write both folders below `models`; returns the examples' table."""
    receivers, examples = models / "receivers", models / "examples"
    for folder in (receivers, examples):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in RECEIVER_SEEDS:
        bare = replace(draw_scene(seed), findings=(), devices=())
        write_png(replace(make(seed, RECEIVER_PX), pixels=render(bare, RECEIVER_PX)), receivers / f"{seed}.png")
    rows = [_write_example(recipe, run, examples) for recipe in RECIPES]
    table = examples / "manifest.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "content", "labels", "size_px"))
        writer.writerows(rows)
    return table


def _write_example(recipe: Recipe, run: Run, folder: Path) -> tuple[str, str, str, int]:
    phantom = example(recipe, run)
    name = f"{recipe.content}-{recipe.seed}"
    if recipe.photometric is None:
        path = folder / f"{name}.png"
        write_png(phantom, path)
    else:
        path = folder / f"{name}-{recipe.photometric.lower()}.dcm"
        write_dicom(phantom, path, recipe.photometric, recipe.bits)
    return path.name, recipe.content, "|".join(phantom.labels) or "No Finding", recipe.size_px
