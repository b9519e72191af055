"""A sheet of films for the eye."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from service.arrays import FloatArray


def write_contact_sheet(films: Sequence[FloatArray], path: Path, columns: int = 6, side_px: int = 224) -> None:
    """Films (height, width) in [0, 1] side by side as one PNG, each stretched to side_px with a gap of 2 px."""
    pitch = side_px + 2
    rows = -(-len(films) // columns)
    sheet = Image.new("L", (columns * pitch, rows * pitch))
    for index, film in enumerate(films):
        grey = Image.fromarray(np.rint(np.clip(film, 0.0, 1.0) * 255).astype(np.uint8))
        resized = grey.resize((side_px, side_px), Image.Resampling.BILINEAR)
        sheet.paste(resized, (index % columns * pitch, index // columns * pitch))
    sheet.save(path, format="PNG")
