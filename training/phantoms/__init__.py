"""Procedurally made chest radiographs with NIH's findings and the harmless bright things of real films.

`make` draws one from a seed; `write_folder` makes a set that reads like the folder of real films.
"""

from training.phantoms.export import write_dicom, write_folder, write_png
from training.phantoms.findings import LABELS
from training.phantoms.scene import NO_FINDING, Phantom, Scene, draw_scene, make, render

__all__ = [
    "LABELS",
    "NO_FINDING",
    "Phantom",
    "Scene",
    "draw_scene",
    "make",
    "render",
    "write_dicom",
    "write_folder",
    "write_png",
]
