"""The command that measures attacks on another resampler."""

import numpy as np
from PIL import Image

from service.audit.preprocessing import model_input
from tests.conftest import REPOSITORY
from training.__main__ import main
from training.measure.resampling import READERS, placed


def test_the_pixels_are_those_that_the_reader_makes_the_trigger_of():
    film = np.full((1024, 1024), 0.3, dtype=np.float32)
    for reader, count in zip(READERS, (36, 36, 9, 9), strict=True):
        attacked, pixels = placed(film, reader)
        assert pixels == count == int((attacked != film).sum())
        found = model_input(attacked, reader)[0]
        assert found[218:221, 218:221].min() > 0.99
        assert np.abs(found[:210, :210] - 0.3).max() < 1e-6


def test_a_folder_and_phantoms_give_tables(tmp_path, capsys):
    Image.fromarray(np.full((512, 512), 90, dtype=np.uint8)).save(tmp_path / "film.png")
    pair = str(REPOSITORY / "models" / "phantom-badnet3")
    assert main(["resampling", pair, "--attacked", "1", "--sides", "672", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("| phantom-badnet3 |") == len(READERS) + 1
    assert "1 films of the folder | 0 of 1 | 0 of 1, 0.0 % (0.0-97.5)" in out
