"""Maps of a run: the right colours in the right places, the region of change, and errors that say what is missing."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from ai4land_coupler import ncfile
from ai4land_coupler.errors import OutputError
from ai4land_coupler.plot import COLOURS, WATER, Year, palette, plot_run, plot_year, strongest_change

LEGEND = ("forest", "cropland")
DAYS = {"units": "days since 1850-01-01 00:00:00", "calendar": "noleap"}


def write(folder: Path, year: int, classes: np.ndarray, target: np.ndarray) -> Path:
    path = folder / f"ai4land_{year}.nc"
    flags = {"flag_meanings": " ".join(("none", *LEGEND))}
    variables = {
        "time": (("time",), np.array([(year - 1850) * 365.0]), DAYS),
        "target": (("class", "coarse_lat", "coarse_lon"), target, {}),
        "class": (("time", "lat", "lon"), classes[None].astype(np.uint8), flags),
    }
    ncfile.write(path, variables, {})
    return path


def world() -> tuple[np.ndarray, np.ndarray]:
    """1 degree classes and 4 degree totals: forest west of Greenwich, cropland east of it, water north of 60."""
    classes = np.where(np.arange(360) < 180, 1, 2) * np.ones((180, 1), int)
    classes[150:] = 0
    target = np.zeros((2, 45, 90))
    target[0, :, :45] = target[1, :, 45:] = 1
    target[:, 38:] = np.nan
    return classes, target


def share_of(colour: str, picture: np.ndarray) -> float:
    return float((np.abs(picture[..., :3] - to_rgb(colour)).max(axis=-1) < 2 / 255).mean())


def test_a_map_shows_each_class_in_its_colour_and_proportion(tmp_path) -> None:
    """In 30 W to 30 E, 20 S to 20 N half is forest, half cropland and nothing water, on both panels."""
    path = write(tmp_path, 2001, *world())
    picture = imread(plot_year(path, tmp_path / "year.png", (-30.0, 30.0, -20.0, 20.0)))
    forest, cropland = share_of(COLOURS["forest"], picture), share_of(COLOURS["cropland"], picture)
    assert forest > 0.2
    assert cropland == pytest.approx(forest, rel=0.02)
    rows = np.abs(picture[..., :3] - to_rgb(COLOURS["forest"])).max(axis=-1) < 2 / 255
    columns = np.flatnonzero(rows.mean(axis=0) > 0.5) / picture.shape[1]
    assert ((columns > 0) & (columns < 0.3)).any(), "forest fills the west of the left panel"
    assert ((columns > 0.5) & (columns < 0.8)).any(), "and the west of the right one"


def test_north_is_up(tmp_path) -> None:
    path = write(tmp_path, 2001, *world())
    picture = imread(plot_year(path, tmp_path / "year.png"))
    water = np.abs(picture[..., :3] - to_rgb(WATER)).max(axis=-1) < 2 / 255
    rows = np.flatnonzero(water.mean(axis=1) > 0.8)
    land = np.flatnonzero(
        (np.abs(picture[..., :3] - to_rgb(COLOURS["forest"])).max(axis=-1) < 2 / 255).mean(axis=1) > 0.3
    )
    assert rows.size
    assert rows.max() < land.min() + 5


def test_the_region_of_strongest_change_is_found(tmp_path) -> None:
    """Half of the cropland in 40-56 E, 0-12 N becomes forest: the region lies around it."""
    classes, target = world()
    after = target.copy()
    after[:, 23:26, 55:59] = 0.5
    years = [Year(2001, LEGEND, classes, target), Year(2002, LEGEND, classes, after)]
    west, east, south, north = strongest_change(years)
    assert west <= 40 <= 56 <= east
    assert south <= 4 <= 8 <= north


def test_a_run_is_drawn_for_the_globe_and_a_region(tmp_path) -> None:
    classes, target = world()
    write(tmp_path, 2001, classes, target)
    drawn = plot_run(tmp_path, tmp_path / "one")
    assert [path.name for path in drawn] == ["map_globe.png", "map_region.png"]
    after, moved = target.copy(), classes.copy()
    after[:, 23:26, 55:59], moved[90:104, 220:236] = 0.5, 1
    write(tmp_path, 2003, moved, after)
    drawn = plot_run(tmp_path, tmp_path / "two", (30.0, 60.0, -5.0, 20.0))
    assert [path.name for path in drawn] == ["map_globe.png", "change_globe.png", "map_region.png", "change_region.png"]
    for path in drawn:
        assert imread(path).std() > 0.05, f"{path} is blank"
    changed = share_of(COLOURS["forest"], imread(drawn[3]))
    assert 0.02 < changed < 0.2


def test_every_class_has_a_colour_of_its_own() -> None:
    for legend in (tuple(COLOURS), ("forest", "primf", "secdf", "urban", "c3ann")):
        assert len(set(palette(legend))) == len(legend) + 1


def test_what_cannot_be_drawn_is_said(tmp_path) -> None:
    with pytest.raises(OutputError, match=r"output\.folder"):
        plot_run(tmp_path, tmp_path)
    (tmp_path / "ai4land_2001.nc").write_bytes(b"not netCDF")
    with pytest.raises(OutputError, match=r"ai4land_2001\.nc"):
        plot_run(tmp_path, tmp_path)
