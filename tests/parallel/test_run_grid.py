"""`ai4land run --grid`: states on cells whose corners stand in another file; and weights made beforehand."""

import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import small_emulator
from mpi import mpirun

from ai4land_coupler.errors import BadInputError, GridError, Status
from ai4land_coupler.regrid import esmfmk
from ai4land_coupler.statefile import CoarseStates

LEGEND = small_emulator.LEGEND
AI4LAND = (sys.executable, "-m", "ai4land_coupler")
FIELDS = ("class", "filled", *LEGEND)
N = 6
CELLS = (6, N, N)


def cube() -> tuple[np.ndarray, np.ndarray]:
    """Corners (6, N + 1, N + 1) of a cube's faces, cut at equal angles, in degrees."""
    a, b = np.meshgrid(*2 * [np.tan(np.linspace(-np.pi / 4, np.pi / 4, N + 1))], indexing="ij")
    one = np.ones_like(a)
    xyz = np.array([(one, a, b), (-one, -a, b), (-a, one, b), (a, -one, b), (-b, a, one), (b, a, -one)])
    x, y, z = xyz.swapaxes(0, 1)
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))


def geos(path: Path) -> Path:
    with netCDF4.Dataset(path, "w") as file:
        for name, size in zip(("nf", "YCdim", "XCdim"), (6, N + 1, N + 1), strict=True):
            file.createDimension(name, size)
        for name, values in zip(("corner_lons", "corner_lats"), cube(), strict=True):
            variable = file.createVariable(name, "f8", ("nf", "YCdim", "XCdim"))
            variable.units = "degrees_east" if name == "corner_lons" else "degrees_north"
            variable[:] = values
    return path


def states(path: Path, dims: dict[str, int], seed: int = 3, axes: dict[str, tuple] | None = None) -> Path:
    """Two years of fractions that sum to 1 on cells of these dimensions; a tenth of them missing."""
    shape = tuple(dims.values())
    rng = np.random.default_rng(seed)
    parts = rng.random((len(LEGEND), 2, *shape))
    parts /= parts.sum(axis=0)
    parts[:, :, rng.random(shape) < 0.1] = 1e20
    with netCDF4.Dataset(path, "w") as file:
        for name, size in ({"time": 2} | dims).items():
            file.createDimension(name, size)
        time = file.createVariable("time", "f8", ("time",))
        time.units = "years since 2010-01-01"
        time[:] = [0, 1]
        for name, values in zip(LEGEND, parts, strict=True):
            file.createVariable(name, "f8", ("time", *dims))[:] = values
        for name, (where, values, bounds) in (axes or {}).items():
            variable = file.createVariable(name, "f8", where)
            variable.units = "degrees_north" if name == "lat" else "degrees_east"
            variable[:] = values
            if bounds is not None:
                if "nv" not in file.dimensions:
                    file.createDimension("nv", bounds.shape[-1])
                variable.bounds = f"{name}_corners"
                file.createVariable(f"{name}_corners", "f8", (*where, "nv"))[:] = bounds
    return path


def quads(lattice: np.ndarray) -> np.ndarray:
    around = lattice[:, :-1, :-1], lattice[:, :-1, 1:], lattice[:, 1:, 1:], lattice[:, 1:, :-1]
    return np.stack(around, axis=-1)


def configuration(folder: Path, name: str, extra: str = "") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(f"emulator: ./emulator\noutput: {{folder: {name}, fractions: all}}\n{extra}")
    return path


def fields(folder: Path, name: str) -> dict[str, np.ndarray]:
    with netCDF4.Dataset(folder / name / "ai4land_2011.nc") as file:
        file.set_auto_mask(False)
        assert set(FIELDS) <= set(file.variables)
        return {field: np.asarray(file[field][:]) for field in FIELDS}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name in FIELDS:
        assert one[name].tobytes() == other[name].tobytes(), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    small_emulator.build(folder / "emulator")
    return folder


def test_a_cubed_sphere_from_its_grid_file_on_two_ranks(folder: Path) -> None:
    """The same fields as from states that carry the corners themselves, on one rank."""
    pytest.importorskip("yac")
    geos(folder / "c6.nc")
    dims = dict(zip(("nf", "Ydim", "Xdim"), CELLS, strict=True))
    states(folder / "plain.nc", dims)
    corner_lon, corner_lat = (quads(corner) for corner in cube())
    axes = {"lon": (tuple(dims), corner_lon[..., 0], corner_lon), "lat": (tuple(dims), corner_lat[..., 0], corner_lat)}
    states(folder / "full.nc", dims, axes=axes)
    states(folder / "flat.nc", {"ncell": 6 * N * N})
    for name, ranks, file, grid in (("full", 1, "full.nc", ()), ("plain", 2, "plain.nc", ("--grid", "c6.nc")),
                                    ("flat", 2, "flat.nc", ("--grid", "c6.nc"))):  # fmt: skip
        configuration(folder, name, "regrid: {engine: yac}\n")
        done = mpirun(ranks, *AI4LAND, "run", f"{name}.yaml", file, *grid, cwd=folder, timeout=200)
        assert done.returncode == 0, done.stderr
        assert "216 cells" in done.stderr
    assert_same(fields(folder, "full"), fields(folder, "plain"))
    assert_same(fields(folder, "full"), fields(folder, "flat"))
    assert len(np.unique(fields(folder, "full")["class"])) > 3


def test_a_regular_grid_by_its_step_and_weights_made_beforehand(folder: Path) -> None:
    """Axes in the file, `latlon:10`, and a weight file that `ai4land weights` made: one and the same."""
    lat, lon = np.linspace(-85, 85, 18), np.linspace(-175, 175, 36)
    dims = {"lat": 18, "lon": 36}
    states(folder / "axes.nc", dims, axes={"lat": (("lat",), lat, None), "lon": (("lon",), lon, None)})
    states(folder / "bare.nc", dims)
    made = mpirun(1, *AI4LAND, "weights", "--source", "latlon:10", "--target", "emulator:emulator", "--output", "w.nc",
                  cwd=folder)  # fmt: skip
    assert made.returncode == 0, made.stderr
    for name, ranks, file, grid, extra in (
        ("axes", 1, "axes.nc", (), ""),
        ("bare", 2, "bare.nc", ("--grid", "latlon:10.0"), ""),
        ("weighed", 2, "bare.nc", ("--grid", "latlon:10.0"), "regrid: {file: w.nc}\n"),
    ):
        configuration(folder, name, extra)
        done = mpirun(ranks, *AI4LAND, "run", f"{name}.yaml", file, *grid, cwd=folder, timeout=200)
        assert done.returncode == 0, done.stderr
    assert "engine file w.nc" in done.stderr
    assert_same(fields(folder, "axes"), fields(folder, "bare"))
    weighed, exact = fields(folder, "weighed"), fields(folder, "axes")
    for name in LEGEND:
        assert np.allclose(weighed[name], exact[name], atol=1e-6, equal_nan=True), name


def test_states_that_do_not_fit_the_grid_are_refused_on_all_ranks(folder: Path) -> None:
    bare = states(folder / "bare.nc", {"lat": 18, "lon": 36})
    configuration(folder, "wrong")
    done = mpirun(2, *AI4LAND, "run", "wrong.yaml", "bare.nc", "--grid", "latlon:5", cwd=folder, timeout=60)
    assert done.returncode == Status.BAD_INPUT
    assert "the states are on 18 x 36 cells, the grid latlon:5 has 36 x 72" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(BadInputError, match="the grid latlon:36x18 has 36 x 18"):
        CoarseStates.open(bare, LEGEND, "land", "latlon:36x18")
    with pytest.raises(GridError, match=r"absent\.nc cannot be read as netCDF"):
        CoarseStates.open(bare, LEGEND, "land", "absent.nc")


def test_states_whose_own_axes_say_otherwise_are_refused(tmp_path: Path) -> None:
    dims = {"lat": 18, "lon": 36}
    north_first, lon = np.linspace(85, -85, 18), np.linspace(-175, 175, 36)
    axes = {"lat": (("lat",), north_first, None), "lon": (("lon",), lon, None)}
    turned = states(tmp_path / "turned.nc", dims, axes=axes)
    with pytest.raises(
        BadInputError, match=r"cell 1 lies at -175\.0000 E 85\.0000 N, the grid latlon:10 has it around"
    ):
        CoarseStates.open(turned, LEGEND, "land", "latlon:10")
    assert CoarseStates.open(turned, LEGEND, "land").grid.vertex_lat[0].max() == 90
    good = states(tmp_path / "good.nc", dims, axes=axes | {"lat": (("lat",), north_first[::-1], None)})
    assert CoarseStates.open(good, LEGEND, "land", "latlon:10").grid.size == 648
    flat = states(tmp_path / "flat.nc", {"ncell": 216})
    with pytest.raises(GridError, match=r"no latitude and longitude.*--grid"):
        CoarseStates.open(flat, LEGEND, "land")


def test_bands_of_any_number_of_ranks_make_up_the_file(tmp_path: Path) -> None:
    plain = states(tmp_path / "plain.nc", dict(zip(("nf", "Ydim", "Xdim"), CELLS, strict=True)))
    grid = str(geos(tmp_path / "c6.nc"))
    whole = CoarseStates.open(plain, LEGEND, "land", grid)
    for size in (2, 5, 7, 300):
        parts = [CoarseStates.open(plain, LEGEND, "land", grid, rank, size) for rank in range(size)]
        assert np.concatenate([part.grid.cell_id for part in parts]).tolist() == list(range(1, 217))
        for name in LEGEND:
            joined = np.concatenate([part.read(2011)[name] for part in parts])
            assert np.array_equal(joined, whole.read(2011)[name])
    assert 0 < (whole.grid.land_fraction == 0).sum() < 50


def test_the_land_fraction_of_a_grid_file_is_that_of_the_cells(tmp_path: Path) -> None:
    """Where the states are given; a mask is none, and states that are fractions of the cell say it themselves."""
    plain = states(tmp_path / "plain.nc", {"lat": 2, "lon": 4})
    grids = {}
    for name, values in (("sftlf", [[10.0, 20, 30, 40], [50, 60, 70, 80]]), ("mask", np.ones((2, 4)))):
        grids[name] = tmp_path / f"{name}.nc"
        with netCDF4.Dataset(grids[name], "w") as file:
            for axis, centres in (("lat", [-45.0, 45.0]), ("lon", [-135.0, -45.0, 45.0, 135.0])):
                file.createDimension(axis, len(centres))
                file.createVariable(axis, "f8", (axis,))[:] = centres
            variable = file.createVariable(name, "f8", ("lat", "lon"))
            variable.units = "%"
            variable[:] = values
    given = CoarseStates.open(plain, LEGEND, "land", str(grids["mask"])).grid.land_fraction
    assert set(given) <= {0.0, 1.0}
    land = CoarseStates.open(plain, LEGEND, "land", str(grids["sftlf"])).grid.land_fraction
    assert np.array_equal(land, np.where(given > 0, np.arange(1, 9) / 10, 0))
    cell = CoarseStates.open(plain, LEGEND, "cell", str(grids["sftlf"])).grid.land_fraction
    assert np.allclose(cell, given)


@pytest.mark.skipif(bool(esmfmk.preflight()), reason=f"ESMF cannot be used here: {esmfmk.preflight()}")
def test_one_esmf_over_two_ranks_makes_the_same_weights(folder: Path) -> None:
    geos(folder / "c6.nc")
    asked = ("weights", "--source", "c6.nc", "--target", "latlon:10", "--engine", "esmf", "--output")
    for ranks, output, how in ((1, "self.nc", ()), (2, "both.nc", ("--collective",))):
        done = mpirun(ranks, *AI4LAND, *asked, output, *how, cwd=folder, timeout=100)
        assert done.returncode == 0, done.stderr
    with netCDF4.Dataset(folder / "self.nc") as one, netCDF4.Dataset(folder / "both.nc") as other:
        assert set(one.variables) == set(other.variables)
        for name in one.variables:
            assert one[name][...].tobytes() == other[name][...].tobytes(), name
