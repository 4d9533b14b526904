"""The cache of overlaps: what hits, what misses, what is refused, who may write at the same time."""

import errno
import json
import logging
import re
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from regrid_hosts import cubed_sphere, lattice

from ai4land_coupler.errors import GridError
from ai4land_coupler.grids import HostGrid, RegularGrid
from ai4land_coupler.regrid import Patch
from ai4land_coupler.regrid.cache import CachedEngine, patch_key
from ai4land_coupler.regrid.latlon import LatLonEngine
from ai4land_coupler.regrid.overlap import Overlap

GRID = RegularGrid(18, 36)
HOSTS = lattice(np.linspace(-90, 90, 9), np.linspace(0, 360, 17))


class Counting(LatLonEngine):
    """The exact engine, counting the patches it is asked for; `factor` makes its areas tell calls apart."""

    def __init__(self, name="latlon", factor=1.0):
        super().__init__()
        self.title, self.factor, self.calls = name, factor, []

    @property
    def name(self):
        return self.title

    def coarse(self, grid, patches):
        self.calls.append(len(patches))
        return [replace(o, area=o.area * self.factor) for o in super().coarse(grid, patches)]

    def fine(self, grid, patch):
        self.calls.append("fine")
        return super().fine(grid, patch)


def patches(*bounds):
    return [Patch(np.arange(a, b), HOSTS) for a, b in bounds]


def same(one, two):
    assert (one.n_row, one.n_col) == (two.n_row, two.n_col)
    for name in ("row", "col", "area"):
        a, b = getattr(one, name), getattr(two, name)
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


def only(folder):
    (file,) = folder.iterdir()
    return file


def test_the_second_time_nothing_is_made_and_the_bits_are_the_same(tmp_path):
    parts = patches((0, 100), (100, 648))
    first, second = CachedEngine(Counting(), tmp_path / "new" / "cache"), Counting()
    made = first.coarse(GRID, parts)
    assert first._engine.calls == [2]
    cached = CachedEngine(second, tmp_path / "new" / "cache")
    for one, two, three in zip(made, cached.coarse(GRID, parts), LatLonEngine().coarse(GRID, parts), strict=True):
        same(one, two)
        same(one, three)
    assert second.calls == []
    assert (first.read, first.made, cached.read, cached.made) == (0, 2, 2, 0)


def test_only_what_lacks_is_made_in_one_call_and_in_place(tmp_path):
    CachedEngine(Counting(), tmp_path).coarse(GRID, patches((100, 200)))
    engine = Counting()
    made = CachedEngine(engine, tmp_path).coarse(GRID, patches((0, 100), (100, 200), (200, 648)))
    assert engine.calls == [2]
    assert [o.n_row for o in made] == [100, 100, 448]
    for one, two in zip(made, LatLonEngine().coarse(GRID, patches((0, 100), (100, 200), (200, 648))), strict=True):
        same(one, two)


def test_no_patches_ask_nothing_of_the_engine(tmp_path):
    engine = Counting()
    assert CachedEngine(engine, tmp_path).coarse(GRID, []) == []
    assert engine.calls == []


def test_fine_overlaps_are_kept_apart_from_coarse_ones(tmp_path):
    (patch,) = patches((0, 100))
    engine = Counting()
    cached = CachedEngine(engine, tmp_path)
    cached.coarse(GRID, [patch])
    same(cached.fine(GRID, patch), cached.fine(GRID, patch))
    assert engine.calls == [1, "fine"]
    assert len(list(tmp_path.iterdir())) == 2


def test_everything_else_is_the_engine_within(tmp_path):
    cached, engine = CachedEngine(Counting("exact 3"), tmp_path), LatLonEngine()
    assert cached.name == "exact 3"
    assert np.array_equal(cached.area(HOSTS), engine.area(HOSTS))
    assert cached.area_tolerance == engine.area_tolerance
    assert np.array_equal(cached.bounds(HOSTS, GRID).west, engine.bounds(HOSTS, GRID).west)
    same(cached.between(HOSTS, HOSTS), engine.between(HOSTS, HOSTS))
    with pytest.raises(Exception, match="rectangle"):
        cached.check(cubed_sphere(2))
    assert list(tmp_path.iterdir()) == []


def moved(hosts, **changes):
    return HostGrid(**{name: changes.get(name, getattr(hosts, name)) for name in HostGrid.__dataclass_fields__})


def nudge(values):
    """The last number changed in its last bit."""
    values = values.copy()
    values[-1, -1] = np.nextafter(values[-1, -1], 0)
    return values


def test_the_key_follows_all_that_the_weights_follow_from():
    cells = np.arange(10, 20)
    base = patch_key("yac 3", "coarse", GRID, Patch(cells, HOSTS))
    other = [
        patch_key("yac 4", "coarse", GRID, Patch(cells, HOSTS)),
        patch_key("yac 3", "fine", GRID, Patch(cells, HOSTS)),
        patch_key("yac 3", "coarse", RegularGrid(36, 18), Patch(cells, HOSTS)),
        patch_key("yac 3", "coarse", GRID, Patch(cells[:-1], HOSTS)),
        patch_key("yac 3", "coarse", GRID, Patch(cells + 1, HOSTS)),
        patch_key("yac 3", "coarse", GRID, Patch(cells, HOSTS.take(np.arange(127)))),
        patch_key("yac 3", "coarse", GRID, Patch(cells, moved(HOSTS, cell_id=HOSTS.cell_id + 1))),
        patch_key("yac 3", "coarse", GRID, Patch(cells, moved(HOSTS, vertex_lon=nudge(HOSTS.vertex_lon)))),
        patch_key("yac 3", "coarse", GRID, Patch(cells, moved(HOSTS, vertex_lat=nudge(HOSTS.vertex_lat)))),
    ]
    assert len({base, *other}) == 1 + len(other)
    assert base == patch_key("yac 3", "coarse", RegularGrid(18, 36), Patch(cells.copy(), HOSTS.take(np.arange(128))))
    land = moved(HOSTS, land_fraction=HOSTS.land_fraction / 2)
    assert base == patch_key("yac 3", "coarse", GRID, Patch(cells, land)), "overlaps know nothing of land"


def test_padding_that_other_cells_ask_for_does_not_matter():
    """The same four corners in an array for eight; a padding that some cell does use is another polygon."""
    wide = moved(
        HOSTS,
        vertex_lon=np.pad(HOSTS.vertex_lon, ((0, 0), (0, 4)), mode="edge"),
        vertex_lat=np.pad(HOSTS.vertex_lat, ((0, 0), (0, 4)), mode="edge"),
    )
    cells = np.arange(10)
    assert patch_key("e", "fine", GRID, Patch(cells, wide)) == patch_key("e", "fine", GRID, Patch(cells, HOSTS))
    used = moved(wide, vertex_lon=nudge(wide.vertex_lon))
    assert patch_key("e", "fine", GRID, Patch(cells, used)) != patch_key("e", "fine", GRID, Patch(cells, HOSTS))


def rewrite_header(file, change):
    """Change the metadata in place; the tensors stay as they are."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(bytes(data))


def other_tensors(file):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    header = file.read_bytes()
    (length,) = struct.unpack("<Q", header[:8])
    about = json.loads(header[8 : 8 + length])["__metadata__"]
    save_file(tensors | {"area": tensors["area"].astype(np.float32)}, file, about)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: f.write_bytes(b""), "cannot be read"),
        (lambda f: f.write_bytes(f.read_bytes()[:5]), "cannot be read"),
        (lambda f: f.write_bytes(f.read_bytes()[:100]), "cannot be read"),
        (lambda f: f.write_bytes(f.read_bytes()[:-8]), "cannot be read"),
        (lambda f: f.write_bytes(b"CDF\x01" * 4000), "cannot be read"),
        (lambda f: flip(f, 20), "cannot be read|is not used"),
        (lambda f: flip(f, -1), "is damaged: its checksum is"),
        (lambda f: flip(f, -1200), "is damaged: its checksum is"),
        (lambda f: rewrite_header(f, lambda m: m.update(key="0" * 64)), "is not used: its key is '0"),
        (lambda f: rewrite_header(f, lambda m: m.update(format="another")), "its format is 'another', expected"),
        (lambda f: rewrite_header(f, lambda m: m.update(n_col="127")), "its n_col is '127', expected '128'"),
        (lambda f: rewrite_header(f, lambda m: m.pop("format")), "its format is None"),
        (lambda f: rewrite_header(f, lambda m: m.pop("checksum")), "is damaged: its checksum"),
        (lambda f: rewrite_header(f, lambda m: m.clear()), "its format is None"),
        (other_tensors, "is not used: it holds .*float32"),
        (lambda f: (f.unlink(), f.mkdir()), "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_trusted_is_refused_with_the_reason_and_made_again(tmp_path, caplog, damage, reason):
    (patch,) = patches((0, 100))
    CachedEngine(Counting(), tmp_path).coarse(GRID, [patch])
    file = only(tmp_path)
    damage(file)
    engine = Counting()
    with caplog.at_level(logging.WARNING, "ai4land_coupler"):
        (made,) = CachedEngine(engine, tmp_path).coarse(GRID, [patch])
    assert engine.calls == [1]
    same(made, LatLonEngine().coarse(GRID, [patch])[0])
    (record,) = [r for r in caplog.records if "made again" in r.message]
    assert record.levelno == logging.WARNING
    assert re.search(reason, record.message)
    assert str(file) in record.message
    if file.is_file():
        again = CachedEngine(Counting(), tmp_path)
        same(again.coarse(GRID, [patch])[0], made)
        assert again.made == 0, "it was replaced"


def test_the_file_of_another_key_under_this_name_is_foreign(tmp_path, caplog):
    """A cache that was copied together by hand must not pass one patch's weights for another's."""
    one, two = patches((0, 100), (100, 200))
    CachedEngine(Counting(), tmp_path / "a").coarse(GRID, [one])
    CachedEngine(Counting(), tmp_path / "b").coarse(GRID, [two])
    shutil.copy(only(tmp_path / "a"), only(tmp_path / "b"))
    with caplog.at_level(logging.WARNING, "ai4land_coupler"):
        (made,) = CachedEngine(Counting(), tmp_path / "b").coarse(GRID, [two])
    assert "is not used: its key is" in caplog.text
    same(made, LatLonEngine().coarse(GRID, [two])[0])


def test_what_no_overlap_can_be_is_refused_though_its_checksum_fits(tmp_path, caplog):
    class Unsorted(Counting):
        def coarse(self, grid, patches):
            (made,) = super().coarse(grid, patches)
            object.__setattr__(made, "row", made.row[::-1].copy())
            return [made]

    (patch,) = patches((0, 100))
    CachedEngine(Unsorted(), tmp_path).coarse(GRID, [patch])
    with caplog.at_level(logging.WARNING, "ai4land_coupler"):
        CachedEngine(Counting(), tmp_path).coarse(GRID, [patch])
    assert "is damaged: overlap entries must be sorted" in caplog.text


@pytest.mark.parametrize("blocked", ["file", "below a file"])
def test_a_folder_that_takes_no_files_is_said_once_and_the_run_goes_on(tmp_path, caplog, blocked):
    (tmp_path / "cache").write_text("not a folder")
    folder = tmp_path / "cache" / ("deep" if blocked == "below a file" else "")
    engine = Counting()
    cached = CachedEngine(engine, folder)
    with caplog.at_level(logging.WARNING, "ai4land_coupler"):
        made = cached.coarse(GRID, patches((0, 100), (100, 200)))
        cached.fine(GRID, patches((0, 100))[0])
    same(made[1], LatLonEngine().coarse(GRID, patches((100, 200)))[0])
    assert caplog.text.count("takes no files") == 1
    assert str(folder) in caplog.text
    assert (tmp_path / "cache").read_text() == "not a folder"


def test_a_full_disk_leaves_nothing_behind(tmp_path, caplog, monkeypatch):
    def cut_short(path, data):
        with path.open("wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", cut_short)
    with caplog.at_level(logging.WARNING, "ai4land_coupler"):
        (made,) = CachedEngine(Counting(), tmp_path).coarse(GRID, patches((0, 100)))
    assert "takes no files: [Errno 28]" in caplog.text
    assert list(tmp_path.iterdir()) == []
    assert made.n_row == 100


def test_what_the_engine_refuses_is_not_stored(tmp_path):
    twice = HostGrid(
        np.array([1, 2]), HOSTS.vertex_lon[[0, 0]], HOSTS.vertex_lat[[0, 0]], np.ones(2)
    )  # the same cell under two ids
    for _ in range(2):
        with pytest.raises(GridError, match="overlap"):
            CachedEngine(LatLonEngine(), tmp_path).coarse(GRID, [Patch(np.arange(648), twice)])
    assert list(tmp_path.iterdir()) == []


def test_the_use_of_the_folder_is_reported(tmp_path, caplog):
    CachedEngine(Counting(), tmp_path).coarse(GRID, patches((0, 100)))
    cached = CachedEngine(Counting(), tmp_path)
    cached.coarse(GRID, patches((0, 100), (100, 200), (200, 300)))
    with caplog.at_level(logging.INFO, "ai4land_coupler"):
        cached.report()
    assert f"weights of 1 patches read from {tmp_path}, of 2 made" in caplog.text


def test_empty_overlaps_are_kept_too(tmp_path):
    none = np.zeros(0, dtype=np.int64)
    parts = [Patch(np.arange(40), HOSTS.take(none)), Patch(none, HOSTS)]
    CachedEngine(Counting(), tmp_path).coarse(GRID, parts)
    engine = Counting()
    for one, two in zip(CachedEngine(engine, tmp_path).coarse(GRID, parts), parts, strict=True):
        assert (one.n_row, one.n_col, one.row.size) == (two.cells.size, two.hosts.size, 0)
    assert engine.calls == []


PROCESS = """
import sys, time, logging
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_regrid_cache import Counting, GRID, CachedEngine, LatLonEngine, patches, same
logging.basicConfig(stream=sys.stdout, format="%(message)s")
reader, parts = sys.argv[3] == "reader", patches(*((i, i + 54) for i in range(0, 648, 54)))
truth = LatLonEngine().coarse(GRID, parts)
until = time.monotonic() + 2
rounds = 0
while time.monotonic() < until and rounds < 40:
    cached = CachedEngine(Counting(), sys.argv[2])
    if not reader:
        cached._find = lambda key, patch: None  # writes every round, whatever is there
    for one, two in zip(cached.coarse(GRID, parts), truth):
        same(one, two)
    rounds += 1
print("rounds", rounds)
"""


def test_four_writers_of_the_same_keys_and_a_reader_beside_them(tmp_path):
    """The reader may find a file or not, but never half of one; nothing is left of writing."""
    program = [sys.executable, "-c", PROCESS, str(Path(__file__).parent), str(tmp_path)]
    running = [
        subprocess.Popen([*program, role], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for role in ("writer",) * 4 + ("reader",)
    ]
    said = [process.communicate(timeout=90)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 5, said
    for text in said:
        assert text.startswith("rounds "), f"a warning came first: {text}"
        assert int(text.split()[1]) >= 2
    assert len(list(tmp_path.iterdir())) == 12
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}


def test_reading_is_near_the_speed_of_the_disk(tmp_path):
    """2 M entries in 40 files, hashing and all checks included: 32 MB, 0.06 s on one slow core, allowed 1 s."""
    n = 50_000
    hosts = lattice(np.linspace(-90, 90, 37), np.linspace(-180, 180, 73))
    grid = RegularGrid(1800, 3600)
    row = np.arange(n)

    class Big(Counting):
        def coarse(self, grid, patches):
            return [Overlap(row, (row // 20) % p.hosts.size, np.full(n, 1.0) + row, n, p.hosts.size) for p in patches]

    parts = [Patch(np.arange(i * n, i * n + n), hosts) for i in range(40)]
    CachedEngine(Big(), tmp_path).coarse(grid, parts)
    cached = CachedEngine(Counting(), tmp_path)
    start = time.perf_counter()
    found = cached.coarse(grid, parts)
    assert time.perf_counter() - start < 1.0
    assert cached.made == 0
    assert sum(o.row.size for o in found) == 40 * n
