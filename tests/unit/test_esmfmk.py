"""What keeps ESMF from being used, each with its mend, found on made-up installations; nothing of ESMF is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mpi import environment

from ai4land_coupler import doctor
from ai4land_coupler.regrid import elf, esmfmk, esmfstart

MAKEFILE = """# ESMF application makefile fragment
ESMF_VERSION_STRING={version}
ESMF_VERSION_STRING_GIT={git}
ESMF_LIBSDIR={folder}
ESMF_F90COMPILER=mpifort
# ESMF_COMPILER: {compiler}
# ESMF_COMM: {comm}
# ESMF_PIO:               OFF
"""


def shared_object(
    path: Path, soname: str | None = None, needs: tuple[Path | str, ...] = (), code: str = "int x;"
) -> Path:
    """A small library that needs others, whether it uses them or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_suffix(".c")
    source.write_text(code)
    name = (f"-Wl,-soname,{soname}",) if soname else ()
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-Wl,--no-as-needed", *name, source, *needs, "-o", path], check=True, timeout=60
    )
    return path


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install(...) makes an esmf.mk with its library in a folder, and an esmpy; ESMFMKFILE is not set."""
    monkeypatch.delenv("ESMFMKFILE", raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setattr(esmfmk, "loaded_mpi", lambda: {"libmpi.so.40"})

    def install(
        folder="environment", version="8.9.1", esmpy="8.9.1", compiler="gfortran", comm="openmpi", mpi="libmpi.so.40",
        git="v8.9.1", library=True,
    ) -> Path:  # fmt: skip
        lib = tmp_path / folder / "lib"
        lib.mkdir(parents=True)
        if library:
            needs = (shared_object(tmp_path / folder / "mpi.so", mpi),) if mpi else ()
            shared_object(lib / "libesmf_fullylinked.so", needs=needs)
        text = MAKEFILE.format(version=version, git=git, folder=lib, compiler=compiler, comm=comm)
        (lib / "esmf.mk").write_text(text)
        if esmpy:
            packages = tmp_path / f"packages_{folder}"
            (packages / "esmpy").mkdir(parents=True)
            (packages / "esmpy" / "__init__.py").write_text("raise ImportError('a look must not import it')\n")
            info = packages / f"esmpy-{esmpy}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: esmpy\nVersion: {esmpy}\n")
            monkeypatch.syspath_prepend(str(packages))
        return lib / "esmf.mk"

    return install


def only(*words: str) -> esmfmk.Problem:
    """The one problem there is, which says these words; the doctor says them too, with the mend."""
    (problem,) = esmfmk.preflight()
    for word in words:
        assert word in problem.found, problem
    found = doctor.esmf()
    assert not found.ok
    assert problem.found in found.found
    assert found.mend == problem.mend
    return problem


def test_nothing_is_wrong(install) -> None:
    path = install()
    assert esmfmk.preflight() == []
    makefile = esmfmk.MakeFile.read(esmfmk.find())
    assert (makefile.path, makefile.version, makefile.number, makefile.beta) == (path, "8.9.1", (8, 9, 1), False)
    assert esmfstart.startable(makefile)
    assert doctor.esmf().ok
    assert doctor.esmf().found == f"esmpy 8.9.1, ESMF 8.9.1 (openmpi, gfortran) of {path}"


def test_esmpy_is_not_installed(install, monkeypatch) -> None:
    install(esmpy=None)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not Path(p, "esmpy").exists()])
    assert "conda install" in only("esmpy is not installed", sys.prefix).mend


def test_no_makefile(install) -> None:
    path = install()
    path.unlink()
    assert "ESMFMKFILE" in only("there is no esmf.mk", str(path)).mend


@pytest.mark.parametrize("there", [True, False])
def test_stale_variable_names_a_file_that_is_gone(install, monkeypatch, there) -> None:
    path = install()
    monkeypatch.setenv("ESMFMKFILE", "/nowhere/esmf.mk")
    if not there:
        path.unlink()
    problem = only("stale", "/nowhere/esmf.mk")
    assert ("unset ESMFMKFILE" in problem.mend) == there


def test_stale_variable_names_another_installation(install, monkeypatch) -> None:
    other = install("other", version="8.8.0", esmpy=None)
    path = install()
    monkeypatch.setenv("ESMFMKFILE", str(other))
    problem = only("stale", "esmpy 8.9.1", "ESMF 8.8.0", str(other))
    assert problem.mend == f"unset ESMFMKFILE: {path} is of ESMF 8.9.1"


@pytest.mark.parametrize(
    ("version", "esmpy"),
    [("8.8.1", "8.9.1"), ("8.9.0", "8.9.1"), ("8.9.1 beta snapshot", "8.9.1"), ("8.9.1", "8.9.1b3"), ("", "8.9.1")],
)
def test_versions_do_not_go_together(install, version, esmpy) -> None:
    install(version=version, esmpy=esmpy)
    assert "install esmpy of the version of ESMF" in only(f"esmpy {esmpy} does not go with ESMF").mend


def test_betas_go_together(install) -> None:
    install(version="9.0.0 beta snapshot", esmpy="9.0.0b0", git="v9.0.0b01-3-gabcdef")
    assert esmfmk.preflight() == []
    assert esmfmk.MakeFile.read(esmfmk.find()).version == "9.0.0b01"


@pytest.mark.parametrize("compiler", ["intel", "nag"])
def test_esmpy_gives_no_weights_of_this_compiler(install, compiler) -> None:
    install(compiler=compiler)
    assert "ESMF_COMPILER=gfortran" in only(f"compiled with {compiler}", "no weights").mend


def test_no_shared_library(install) -> None:
    path = install(library=False)
    assert "ESMF_SHARED_LIB_BUILD" in only(str(path.parent / "libesmf_fullylinked.so"), "cannot be read").mend


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01", b"\x7fELF\x01\x01" + bytes(60), b"!<arch>\n" * 20])
def test_library_is_none(install, content) -> None:
    path = install()
    path.with_name("libesmf_fullylinked.so").write_bytes(content)
    assert "built for this machine" in only("is no 64-bit little-endian shared library").mend


def test_library_of_another_mpi(install) -> None:
    install(mpi="libmpi.so.12")
    problem = only("another MPI", "it needs libmpi.so.12", "this process has loaded libmpi.so.40")
    assert "esmf=*=mpi_openmpi*" in problem.mend


def test_library_of_another_mpi_than_mpi4py(install, monkeypatch, tmp_path) -> None:
    """Where no MPI is loaded yet, that of mpi4py counts: any of several that it picks from at import."""
    install(mpi="libmpich.so.12")
    monkeypatch.setattr(esmfmk, "loaded_mpi", set)
    package = tmp_path / "mpi_packages" / "mpi4py"
    shared_object(package / "MPI.cpython-311.so", needs=(shared_object(tmp_path / "a.so", "libmpi.so.40"),))
    (package / "__init__.py").write_text("raise ImportError('a look must not import it')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.delitem(sys.modules, "mpi4py", raising=False)
    only("another MPI", "it needs libmpich.so.12", "mpi4py is for libmpi.so.40")
    shared_object(package / "MPI.mpich.so", needs=(shared_object(tmp_path / "b.so", "libmpich.so.12"),))
    assert esmfmk.preflight() == []


def test_esmf_without_mpi_goes_with_any(install) -> None:
    install(comm="mpiuni", mpi=None)
    assert esmfmk.preflight() == []
    assert esmfmk.MakeFile.read(esmfmk.find()).serial


def test_no_glibc(install, monkeypatch) -> None:
    install()
    monkeypatch.delattr(os, "RTLD_DEEPBIND")
    only("not glibc", "RTLD_DEEPBIND")


def test_several_at_once(install) -> None:
    install(version="8.8.0", compiler="intel", mpi="libmpi.so.12")
    found = doctor.esmf()
    assert [word in found.found for word in ("does not go with", "intel", "another MPI")] == [True] * 3
    problems = esmfmk.preflight()
    assert len(problems) == 3
    assert found.mend == "; ".join(problem.mend for problem in problems)


@pytest.mark.parametrize(
    ("version", "known"),
    [
        *(("8.3.1", False), ("8.4.2", True), ("8.9.9", True), ("8.10.0", False), ("9.0.0", False)),
        *(("9.0.0 beta snapshot", True), ("9.1.0 beta snapshot", False)),
    ],
)
def test_versions_that_start_without_the_shim(install, version, known) -> None:
    """A release that is not known needs the compiled start: its argument list may be another."""
    esmpy = version.replace(" beta snapshot", "b0")
    install(version=version, esmpy=esmpy, git="")
    assert doctor.esmf().ok == known
    assert ("libai4land_esmf.so" in doctor.esmf().mend) != known
    Path(sys.prefix, "lib", "libai4land_esmf.so").touch()
    assert doctor.esmf().ok


def test_libraries_in_this_process() -> None:
    """The MPI that mpi4py has brought in goes by the name that the linker uses."""
    from mpi4py import MPI  # noqa: F401

    (name,) = esmfmk.loaded_mpi()
    assert name.startswith("libmpi")
    assert any(path.name.startswith("libpython") or "python3" in path.name for path in esmfmk.mapped())


def test_symbols_and_needs_of_a_library(tmp_path) -> None:
    first = shared_object(tmp_path / "first.so", "libfirst.so.3")
    code = "extern int a_far[3]; int *there = &a_far[2]; int near(void) { return a_far[0]; }"
    second = shared_object(tmp_path / "second.so", needs=(first,), code=code)
    assert elf.read(first).soname == "libfirst.so.3"
    assert elf.read(second).needed[0] == "libfirst.so.3"
    assert elf.read(second).soname == ""
    assert sorted((slot.name, slot.addend) for slot in elf.slots(second, "a_f")) == [("a_far", 0), ("a_far", 8)]
    assert elf.slots(second, "b") == []


COPIED = """
import ctypes, os, sys
from pathlib import Path
from ai4land_coupler.regrid import mpiconstants
path = Path(sys.argv[1])
library = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_DEEPBIND)
before = library.near()
print(before, mpiconstants.share(library, path), library.near(), library.far())
print(mpiconstants.share(library, path))
"""


@pytest.mark.parametrize("flags", [(), ("-Wl,-z,relro,-z,now",)], ids=["plain", "read-only"])
def test_constants_that_the_program_has_in_itself(tmp_path, flags) -> None:
    """A library that finds the originals, here 1 and 2, is pointed at those of the program, 11 and 12."""
    constants = "int ompi_mpi_comm_world = {}; int ompi_mpi_int[2] = {{{}, {}}};"
    original = shared_object(tmp_path / "libmpi.so.40", "libmpi.so.40", code=constants.format(1, 1, 2))
    program = shared_object(tmp_path / "program.so", code=constants.format(11, 11, 12))
    code = "extern int ompi_mpi_int[2]; int *second = &ompi_mpi_int[1]; int near(void) { return ompi_mpi_int[0]; }"
    code += "int far(void) { return *second; }"
    library = shared_object(tmp_path / "library.so", needs=(original, f"-Wl,-rpath,{tmp_path}", *flags), code=code)
    command = [sys.executable, "-c", COPIED, library]
    env = environment(LD_PRELOAD=str(program))
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "1 ['ompi_mpi_int'] 11 12\n[]\n", done.stderr
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "1 [] 1 2\n[]\n", done.stderr
