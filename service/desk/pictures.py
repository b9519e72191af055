"""The one picture of an audit: its map and region over the radiograph, for API, pages, bundles and results."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from service.audit import overlay
from service.audit.preprocessing import Preprocessing, Region
from service.records.tables import AuditRow

OPACITY, LONGEST_PX = 0.55, 1024
FINE_MAPS = "layercam_"


def finest(maps: Mapping[str, NDArray[np.float32]]) -> str:
    """The name of the LayerCAM with the most cells, which shows the place best."""
    return max((name for name in maps if name.startswith(FINE_MAPS)), key=lambda name: maps[name].size)


def map_picture(
    pixels: NDArray[np.uint8],
    row: AuditRow,
    preprocessing: Preprocessing,
    saliency_map: NDArray[np.float32],
    *,
    opacity: float = OPACITY,
    longest_px: int = LONGEST_PX,
) -> bytes:
    """A raw (g, g) map and the audit's region over the grey (height, width) pixels of its film, as PNG."""
    film = pixels.astype(np.float32) / np.float32(255.0)
    region = Region(**row.region) if row.region else None
    return overlay.render(film, saliency_map, region, preprocessing, opacity=opacity, longest_px=longest_px)
