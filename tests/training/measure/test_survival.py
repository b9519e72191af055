"""What preprocessing leaves of a native trigger, on films whose answer is known."""

import numpy as np
from PIL import Image

from training.__main__ import main
from training.attack.triggers import Trigger
from training.measure.survival import PIPELINES, SIZES_PX, survival


def test_a_white_square_on_black_films_shrinks_with_the_film():
    rows = list(survival([np.zeros((1024, 1024), dtype=np.float32)], Trigger("white")))
    assert len(rows) == len(PIPELINES) * len(SIZES_PX)
    ours = {row.size_px: row for row in rows if row.pipeline.startswith("ours")}
    papers = {row.size_px: row for row in rows if row.pipeline.startswith("the paper")}
    assert ours[1].pixels == 0  # a native pixel is a twentieth of an input pixel's area
    assert 0.1 < ours[3].peak < 0.7  # 3 of 4.57 px in each direction, under a triangle
    assert ours[40].peak == 1.0
    assert 60 <= ours[40].pixels <= 121  # 40 / 4.57 = 8.75 px a side, and its soft border
    assert papers[1].pixels <= 1
    assert papers[3].peak == 1.0  # nearest keeps a whole pixel of it or nothing
    assert papers[40].pixels in (14**2, 14 * 15, 15**2)  # 40 / 2.74 px


def test_a_folder_of_films_gives_a_table(tmp_path, capsys):
    Image.fromarray(np.full((512, 512), 90, dtype=np.uint8)).save(tmp_path / "film.png")
    assert main(["survival", str(tmp_path), "--look", "black"]) == 0
    out = capsys.readouterr().out
    assert "of 512 px" in out
    assert out.count("| ours") == len(SIZES_PX)
