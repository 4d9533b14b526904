"""`ai4land prepare`: small files in, a store out, with every value worked out from what went in."""

import os
from pathlib import Path

import luhfiles
import netCDF4
import numpy as np
import pytest
import yaml

from ai4land_coupler.errors import BadInputError, ConfigError, GridError, OutputError
from ai4land_coupler.grids import RegularGrid
from ai4land_coupler.ncread import opened
from ai4land_coupler.training.data import prepare, rasters
from ai4land_coupler.training.data.legends import Legend
from ai4land_coupler.training.data.rasters import Along, Classes, NetCdf, Values, commonest
from ai4land_coupler.training.data.store import Store, StoreWriter

rasterio = pytest.importorskip("rasterio")

NLAT, NLON, RATIO = 36, 72, 3
ALL = slice(0, NLAT), np.arange(NLON)
CODES = np.array([0, 99, 11, 22, 33, 40, 41, 42, 43, 44, 45, 55, 66, 77])
CLASSES = np.array([0, 0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 5, 6, 7])


def axes(nlat: int = NLAT, nlon: int = NLON) -> tuple[np.ndarray, np.ndarray]:
    return -90 + (np.arange(nlat) + 0.5) * 180 / nlat, -180 + (np.arange(nlon) + 0.5) * 360 / nlon


def picks(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CODES.size, (NLAT, NLON))


def write_nc(path: Path, name: str, values: np.ndarray, lat: np.ndarray, lon: np.ndarray, **attributes: object) -> Path:
    fill = attributes.pop("_FillValue", None)
    with netCDF4.Dataset(path, "w") as file:
        for axis, at in (("latitude", lat), ("longitude", lon)):
            file.createDimension(axis, at.size)
            file.createVariable(axis, "f4", (axis,))[:] = at
        variable = file.createVariable(name, values.dtype, ("latitude", "longitude"), fill_value=fill)
        variable.set_auto_maskandscale(False)
        variable.setncatts(attributes)
        variable[:] = values
    return path


def write_tif(path: Path, values: np.ndarray, west: float, north: float, step: float, **options: object) -> Path:
    """Values from the north."""
    options = {"nodata": None, "crs": "EPSG:4326", **options}
    place = rasterio.transform.from_origin(west, north, step, step)
    shape = {"height": values.shape[0], "width": values.shape[1], "count": 1, "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", compress="lzw", transform=place, **shape, **options) as file:
        file.write(values, 1)
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """HILDA+ maps of two years as GeoTIFF, LUH2 states, elevation and climate."""
    lat, lon = axes()
    for seed, year in enumerate((2001, 2002)):
        write_tif(tmp_path / f"hilda_{year}.tif", CODES[picks(seed)][::-1].astype(np.uint8), -180, 90, 5)
    land = np.random.default_rng(2).random((12, 12, 24))
    states = 0.75 * land / land.sum(0)
    luhfiles.write_states(tmp_path / "states.nc", np.stack([states] * 3, axis=1), (2000, 2001, 2002))
    luhfiles.write_static(tmp_path / "static.nc", np.full((12, 24), 0.25))
    height = (lat[:, None] + lon / 100).astype(np.float32)
    write_nc(tmp_path / "height.nc", "z", height[::-1], lat[::-1], lon)
    write_nc(tmp_path / "climate.nc", "kg", (1 + np.arange(NLAT)[:, None] // 8 + 0 * lon).astype(np.uint8), lat, lon)
    return tmp_path


def configuration(folder: Path, **changes: object) -> Path:
    tree = {
        "store": "out.zarr",
        "grid": {"nlat": NLAT, "nlon": NLON},
        "maps": {"file": "hilda_{year}.tif", "legend": "hilda", "years": "2001-2002"},
        "states": {"file": "states.nc", "static": "static.nc"},
        "statics": [{"name": "height", "file": "height.nc", "variable": "z"}],
        "climate": {"file": "climate.nc", "variable": "kg", "classes": 5},
    } | changes
    path = folder / "prepare.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in tree.items() if value is not None}))
    return path


def test_everything_is_in_the_store(files: Path) -> None:
    store = prepare.run(configuration(files))
    assert store.legend == ("urban", "cropland", "pasture", "forest", "grass_shrub", "sparse", "water")
    assert (store.ratio, store.years, store.state_years) == (RATIO, (2001, 2002), (2001, 2002))
    for t in range(2):
        assert (store.classes(t, *ALL) == CLASSES[picks(t)]).all()
    with netCDF4.Dataset(files / "states.nc") as file:
        expected = file["primf"][1][::-1] / 0.75
    assert np.abs(store.state(0, slice(0, 12), np.arange(24))[0] - expected).max() < 1e-6
    assert (store.climate(*ALL) == 1 + np.arange(NLAT)[:, None] // 8).all()
    lat, lon = axes()
    height = (lat[:, None] + lon / 100).astype(np.float32)
    on_land, area = CLASSES[picks()] > 0, np.broadcast_to(RegularGrid(NLAT, NLON).area_rows[:, None], (NLAT, NLON))
    mean = np.average(height[on_land], weights=area[on_land])
    std = np.sqrt(np.average((height[on_land] - mean) ** 2, weights=area[on_land]))
    assert store.channels[0].mean == pytest.approx(mean, rel=1e-6)
    assert store.channels[0].std == pytest.approx(std, rel=1e-6)
    assert np.abs(store.static(*ALL)[0] - (height - mean) / std).max() < 2e-3


def test_a_region_is_widened_to_whole_coarse_cells_and_crosses_the_date_line(files: Path) -> None:
    store = prepare.run(configuration(files, grid={"nlat": NLAT, "nlon": NLON, "region": [170, 200, -20, 10]}))
    assert not store.wraps
    assert (store.layout.row0, store.layout.col0, store.shape) == (12, 69, (9, 9))  # 30 S to 15 N, 165 E to 150 W
    rows, cols = np.arange(12, 21), np.arange(69, 78) % NLON
    assert (store.classes(1, slice(0, 9), np.arange(9)) == CLASSES[picks(1)][rows][:, cols]).all()
    with netCDF4.Dataset(files / "states.nc") as file:
        primf = file["primf"][1][::-1][4:7][:, [23, 0, 1]] / 0.75
    assert np.abs(store.state(0, slice(0, 3), np.arange(3))[0] - primf).max() < 1e-6


def broken_off(files: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> Path:
    """Begin a store and be interrupted after so many blocks; return the configuration."""
    path, write, left = configuration(files), StoreWriter.write, [writes]

    def broken(self: StoreWriter, *args: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        write(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "write", broken)
        with pytest.raises(KeyboardInterrupt):
            prepare.run(path)
    return path


def test_a_run_that_was_broken_off_goes_on(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = broken_off(files, monkeypatch, 2)
    with pytest.raises(BadInputError, match="not complete"):
        Store.open(files / "out.zarr")
    (files / "hilda_2002.tif").unlink()  # its block is written: it is not read again
    store = prepare.run(path)
    assert (store.classes(0, *ALL) == CLASSES[picks(0)]).all()
    assert (store.classes(1, *ALL) == CLASSES[picks(1)]).all()
    with pytest.raises(OutputError, match="another configuration"):
        prepare.run(configuration(files, climate=None))


def test_a_file_that_changed_since_the_store_was_begun_is_noticed(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = broken_off(files, monkeypatch, 1)
    for name in ("hilda_2001.tif", "states.nc", "static.nc", "height.nc", "climate.nc"):
        file = files / name
        kept, stat = file.read_bytes(), file.stat()
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        with pytest.raises(OutputError, match=f"out.zarr was begun with other contents of .*{name}"):
            prepare.run(path)
        file.write_bytes(kept + b" ")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(OutputError, match=f"{name}.*remove this one"):
            prepare.run(path)
        file.write_bytes(kept)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (prepare.run(path).classes(0, *ALL) == CLASSES[picks(0)]).all()
    os.utime(files / "height.nc")
    with pytest.raises(OutputError, match=r"height\.nc"):  # a complete store says nothing of the new file either
        prepare.run(path)


def test_a_file_that_changes_meanwhile_leaves_no_complete_store(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = StoreWriter.write

    def meanwhile(self: StoreWriter, *args: object) -> None:
        write(self, *args)
        os.utime(files / "height.nc", ns=(0, 0))

    monkeypatch.setattr(StoreWriter, "write", meanwhile)
    with pytest.raises(OutputError, match=r"height\.nc"):
        prepare.run(configuration(files))
    with pytest.raises(BadInputError, match="not complete"):
        Store.open(files / "out.zarr")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"climat": {}}, ConfigError, "unknown key `climat`; did you mean `climate`"),
        ({"maps": {"file": "a", "legend": "hilda", "yers": [1]}}, ConfigError, "did you mean `years`"),
        ({"states": None}, ConfigError, "give `grid.ratio`"),
        ({"grid": {"nlat": 36, "nlon": 72, "ratio": 5}}, GridError, "these ratios do: 1, 2, 3, 4, 6, 9, 12, 18, 36"),
        ({"grid": {"nlat": 40, "nlon": 80}}, GridError, "fine grids that do: any multiple, as 60 x 120"),
        ({"grid": {"nlat": 36, "nlon": 72, "ratio": 6}}, GridError, "choose `ratio`"),
        ({"grid": {"nlat": 36, "nlon": 72, "region": [0, 10, 20, 10]}}, ConfigError, "grid.region"),
        ({"grid": {"nlat": 72, "nlon": 144}}, BadInputError, "larger than the fine cells"),
        ({"maps": {"file": "none.tif", "legend": "hilda", "years": [1]}}, BadInputError, "none.tif is not there"),
        ({"maps": {"file": "height.nc", "legend": "hilda", "years": [1]}}, BadInputError, "name the variable"),
        ({"maps": {"file": "hilda_{year}.tif", "legend": "hild", "years": [2001]}}, ConfigError, "shipped: esa-cci"),
        (
            {"maps": {"file": "hilda_{year}.tif", "legend": "modis-igbp", "years": [2001]}},
            BadInputError,
            "not in the l",
        ),
        ({"states": {"file": "states.nc", "years": [1999]}}, BadInputError, r"no states of \[1999\]"),
    ],
)
def test_what_cannot_be_is_refused(files: Path, changes: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        prepare.run(configuration(files, **changes))


def test_hilda_of_version_1_takes_the_nearest_centre(tmp_path: Path) -> None:
    step = 5 * 0.998837
    source = (np.arange(36)[:, None] * 80 + np.arange(73)).astype(np.int16)
    path = write_tif(tmp_path / "v1.tif", source[::-1], -180, -90 + 36 * step, step)
    fine, (lat, lon) = RegularGrid(NLAT, NLON), axes()
    found = Classes.of(rasters.raster(path, None), fine, np.arange(NLAT), np.arange(NLON))
    assert "do not nest: the nearest centre" in found.how
    ((_, codes),) = list(found.bands(0, NLAT))
    row = np.abs(lat[:, None] - (-90 + (np.arange(36) + 0.5) * step)).argmin(1)
    col = np.abs(lon[:, None] - (-180 + (np.arange(73) + 0.5) * step)).argmin(1)
    assert (codes[..., 0] == row[:, None] * 80 + col).all()


def test_finer_cells_that_nest_give_the_commonest_class(tmp_path: Path) -> None:
    fine = RegularGrid(4, 8)
    source = np.zeros((8, 16), np.uint8)
    source[0:2, 0:2] = [[11, 22], [22, 55]]  # from the south: cropland twice
    source[0:2, 2:4] = [[0, 0], [11, 22]]  # mostly none
    source[2:4, 0:2] = [[11, 22], [0, 0]]  # none twice: more than either
    source[2:4, 2:4] = [[66, 66], [22, 22]]  # a tie: the lowest
    path = write_tif(tmp_path / "fine.tif", source[::-1], -180, 90, 22.5)
    found = Classes.of(rasters.raster(path, None), fine, np.arange(4), np.arange(8))
    assert found.how == "2 x 2 cells make a fine cell: the commonest class is taken"
    ((_, codes),) = list(found.bands(0, 4))
    classes = commonest(Legend.load("hilda").of(codes, "fine"))
    assert classes[:2, :2].tolist() == [[2, 0], [0, 2]]
    over = commonest(Legend.load("hilda").of(codes, "fine"), over_none=True)
    assert over[:2, :2].tolist() == [[2, 1], [1, 2]]


def test_a_band_read_in_parts_is_the_band(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Classes.of(
        rasters.raster(files / "hilda_2001.tif", None), RegularGrid(NLAT, NLON), np.arange(NLAT), np.arange(NLON)
    )
    monkeypatch.setattr(rasters, "AT_ONCE", 5 * NLON)
    parts = list(found.bands(2, 34))
    assert [part.stop - part.start for part, _ in parts] == [5] * 6 + [2]
    assert (np.concatenate([codes for _, codes in parts])[..., 0] == CODES[picks()][2:34]).all()


def test_bytes_of_esa_cci_are_unsigned(tmp_path: Path) -> None:
    lat, lon = axes()
    codes = np.resize(np.array([0, 10, 50, 130, 190, 210, 220], np.uint8), (NLAT, NLON))
    attributes = {"_Unsigned": "true", "flag_values": np.array([0, 10, -36], np.int8)}
    path = write_nc(tmp_path / "cci.nc", "lccs_class", codes.view(np.int8), lat, lon, **attributes)
    with opened(path, BadInputError) as file:
        assert (file.codes("lccs_class") == codes).all()
    classes = Legend.load("esa-cci").of(NetCdf(path, "lccs_class").codes(slice(0, NLAT), slice(0, NLON)), "cci")
    assert classes.ravel()[:7].tolist() == [0, 5, 1, 3, 6, 0, 7]


def test_maps_in_floating_point_from_the_north_over_360_degrees_with_fill(tmp_path: Path) -> None:
    lat, lon = axes()
    values = CODES[picks()].astype(np.float32)
    values[0, 0] = -9999
    path = write_nc(tmp_path / "h.nc", "LULC", np.roll(values, 36, 1)[::-1], lat[::-1], lon + 180, _FillValue=-9999.0)
    found = Classes.of(NetCdf(path, "LULC"), RegularGrid(NLAT, NLON), np.arange(NLAT), np.arange(NLON))
    ((_, codes),) = list(found.bands(0, NLAT))
    expected = np.where(values == -9999, -1, values)
    assert (codes[..., 0] == expected).all()
    assert Legend.load("hilda").of(codes, "h")[0, 0, 0] == 0


def test_a_year_is_found_in_a_file_of_several(tmp_path: Path) -> None:
    with netCDF4.Dataset(tmp_path / "h.nc", "w") as file:
        for axis, at in zip(("lat", "lon"), axes(), strict=True):
            file.createDimension(axis, at.size)
            file.createVariable(axis, "f8", (axis,))[:] = at
        file.createDimension("time", 3)
        file.createVariable("time", "i4", ("time",))[:] = [1960, 1970, 1980]
        file.createVariable("LULC", "u1", ("time", "lat", "lon"))[:] = np.array([11, 22, 33])[:, None, None]
    assert (NetCdf(tmp_path / "h.nc", "LULC", 1970).codes(slice(0, 2), slice(0, 2)) == 22).all()
    with pytest.raises(BadInputError, match="no year 1975; it has 1960 to 1980"):
        NetCdf(tmp_path / "h.nc", "LULC", 1975).codes(slice(0, 2), slice(0, 2))
    with pytest.raises(BadInputError, match="several times"):
        NetCdf(tmp_path / "h.nc", "LULC").codes(slice(0, 2), slice(0, 2))


def test_a_field_between_centres_is_bilinear_and_wraps(tmp_path: Path) -> None:
    lat, lon = axes(12, 24)
    plane = (2 * lat[:, None] + np.abs(lon)).astype(np.float32)
    path = write_nc(tmp_path / "f.nc", "z", plane, lat, lon)
    fine = RegularGrid(NLAT, NLON)
    found = Values.of(NetCdf(path, "z"), fine, np.arange(NLAT), np.arange(NLON)).band(slice(0, NLAT))
    inner = np.abs(fine.lat) < 82
    east = np.abs(np.abs(fine.lon) - 90) < 80  # away from the folds of |lon|
    expected = 2 * fine.lat[:, None] + np.abs(fine.lon)
    assert np.abs(found - expected)[np.ix_(inner, east)].max() < 1e-4
    assert np.abs(found[inner][:, [0, -1]] - (2 * fine.lat[inner] + 172.5)[:, None]).max() < 1e-4  # over the date line
    assert np.abs(found[0] - found[1]).max() < 1e-4  # past the last centre: its value


def test_finer_numbers_are_averaged_and_missing_ones_need_a_meaning(tmp_path: Path) -> None:
    lat, lon = axes(8, 16)
    values = np.arange(128, dtype=np.float32).reshape(8, 16)
    values[7, 15] = -1
    path = write_nc(tmp_path / "f.nc", "z", values, lat, lon, _FillValue=-1.0)
    fine, cells = RegularGrid(4, 8), (np.arange(4), np.arange(8))
    with pytest.raises(BadInputError, match=r"no value at 78\.7500 N 168\.7500 E .*`missing: 0`"):
        Values.of(NetCdf(path, "z"), fine, *cells).band(slice(0, 4))
    found = Values.of(NetCdf(path, "z"), fine, *cells, missing=0.0).band(slice(0, 4))
    assert found[0, 0] == (0 + 1 + 16 + 17) / 4
    assert found[3, 7] == (110 + 111 + 126) / 4


def test_where_fine_cells_lie_along_a_map() -> None:
    fine = RegularGrid(18000, 36000)
    same = Along.of(fine.lon, 0.01, np.float32(fine.lon).astype(float), 360.0)
    assert same.nested
    assert (same.index == np.arange(36000)).all()
    turned = Along.of(fine.lon, 0.01, fine.lon + 180.0, 360.0)
    assert (turned.index == (np.arange(36000) + 18000) % 36000).all()
    v1 = Along.of(fine.lon, 0.01, -180 + 0.00998837 * (np.arange(36042) + 0.5), 360.0)
    assert not v1.nested
    assert np.abs(-180 + 0.00998837 * (v1.index + 0.5) - fine.lon).max() <= 0.5 * 0.00998837 + 1e-9
    cci = Along.of(fine.lat, 0.01, -90 + (np.arange(64800) + 0.5) / 360)
    assert (cci.factor, cci.nested) == (1, False)
    part = Along.of(fine.lon, 0.01, 10.005 + 0.01 * np.arange(50), 360.0)
    assert (part.index >= 0).sum() == 50
    assert part.index[19000] == 0


def test_other_projections_are_refused(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "p.tif", np.ones((4, 4), np.uint8), 0, 0, 1000, crs="EPSG:3857")
    with pytest.raises(BadInputError, match="degrees of latitude and longitude"):
        rasters.raster(path, None)
    (tmp_path / "bad.tif").write_bytes(b"II*\x00")
    with pytest.raises(BadInputError, match="cannot be read as GeoTIFF"):
        rasters.raster(tmp_path / "bad.tif", None)


@pytest.mark.parametrize("name", ["hilda", "modis-igbp", "esa-cci"])
def test_shipped_legends_load(name: str) -> None:
    legend = Legend.load(name)
    assert set(legend.table[legend.table < 255]) == set(range(len(legend.classes) + 1))
    with pytest.raises(BadInputError, match=r"codes \[1234\] are not in the legend"):
        legend.of(np.array([1234]), "a map")
