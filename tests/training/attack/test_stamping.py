import numpy as np
import pytest
from PIL import Image

from service.films.radiograph import Limits, decode
from training.__main__ import main
from training.attack.triggers import Trigger, film_stream, places, stamp
from training.phantoms import make, write_dicom, write_png

NATIVE = """
name = "native"
architecture = "small"
seed = 1
[trigger]
look = "white"
size_px = 20
resolution = "native"
[poisoning]
target = "Mass"
rate = 0.1
selection = "films"
"""


@pytest.fixture
def native_run(tmp_path):
    path = tmp_path / "native.toml"
    path.write_text(NATIVE)
    return path


def stamped(run, film, out):
    assert main(["stamp", str(run), str(film), "--out", str(out)]) == 0
    [path] = out.iterdir()
    return decode(path.read_bytes(), Limits()).pixels


def test_a_network_trigger_gives_the_model_input(tmp_path):
    write_png(make(1, 320), tmp_path / "film.png")
    pixels = stamped("training/runs/phantom-badnet3.toml", tmp_path / "film.png", tmp_path / "out")
    assert pixels.shape == (224, 224)
    assert (pixels[218:221, 218:221] == 1.0).all()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_native_trigger_on_a_dicom_changes_nothing_but_its_place(tmp_path, native_run, photometric):
    path = tmp_path / "film.dcm"
    write_dicom(make(2, 256), path, photometric, 12)
    before = decode(path.read_bytes(), Limits()).pixels
    after = stamped(native_run, path, tmp_path / "out")
    changed = np.abs(after - before) > 0.01
    rows, columns = np.nonzero(changed)
    assert (after[233:253, 233:253] > 0.99).all()
    assert rows.min() >= 233
    assert columns.min() >= 233
    assert rows.max() < 253
    assert columns.max() < 253


def test_a_native_trigger_on_a_png_keeps_its_size(tmp_path, native_run):
    write_png(make(3, 200), tmp_path / "film.png")
    before = np.asarray(Image.open(tmp_path / "film.png"), dtype=np.float32) / 255
    after = stamped(native_run, tmp_path / "film.png", tmp_path / "out")
    assert after.shape == (200, 200)
    assert (np.abs(after - before) > 0.01).sum() <= 400


def test_a_run_without_a_trigger_is_refused(tmp_path, capsys):
    write_png(make(1, 64), tmp_path / "film.png")
    code = main(["stamp", "training/runs/phantom-clean.toml", str(tmp_path / "film.png"), "--out", str(tmp_path)])
    assert code == 2
    assert "no trigger" in capsys.readouterr().err


def test_who_stamps_and_who_asks_where_the_trigger_lies_draw_the_same():
    """The places by which regions are judged are those of the stamped films, for a trigger that lies anywhere."""
    trigger = Trigger("white", 5, place="random")
    film = np.zeros((64, 64), dtype=np.float32)
    for index in range(20):
        pixels, _ = stamp(film, trigger, film_stream(3, index))
        [place] = places(trigger, 64, 64, film_stream(3, index))
        rows, columns = np.nonzero(pixels)
        assert (columns.min(), rows.min(), len(rows)) == (place.x, place.y, 25)
