"""The public header: compiles anywhere, says what Python says, and is all that the library shows."""

import re
from pathlib import Path

import pytest
from building import declared, run
from mpi import ROOT

from ai4land_coupler.capi import ANSWERED
from ai4land_coupler.errors import Status

HEADER = ROOT / "bindings" / "ai4land_coupler.h"


@pytest.mark.parametrize("compiler", [("gcc", "-std=c99", "-x", "c"), ("g++", "-std=c++98", "-x", "c++")])
def test_compiles_as_c99_and_cpp(compiler: tuple[str, ...], tmp_path: Path) -> None:
    """Alone, with every warning an error."""
    source = tmp_path / "host.txt"
    source.write_text('#include "ai4land_coupler.h"\nint main(void) { return ai4land_abi_version() == AI4LAND_OK; }\n')
    run(*compiler, "-Wall", "-Wextra", "-pedantic-errors", "-Werror", f"-I{HEADER.parent}", "-c", source, "-o",
        tmp_path / "host.o")  # fmt: skip


def test_statuses_are_those_of_python(tmp_path: Path) -> None:
    """The compiler's values of the enum are errors.Status, name by name."""
    names = re.findall(r"AI4LAND_(\w+) = -?\d+,?", HEADER.read_text())
    lines = "\n".join(f'printf("{name} %d\\n", AI4LAND_{name});' for name in names)
    source = tmp_path / "host.c"
    source.write_text(f'#include <stdio.h>\n#include "ai4land_coupler.h"\nint main(void) {{ {lines} return 0; }}\n')
    run("gcc", f"-I{HEADER.parent}", source, "-o", tmp_path / "host")
    printed = dict(line.split() for line in run(tmp_path / "host").splitlines())
    assert {name: int(value) for name, value in printed.items()} == {status.name: status.value for status in Status}


def test_library_shows_the_header_and_no_more(prefix: Path) -> None:
    """Beside the entry point that cffi needs."""
    symbols = run("nm", "-D", "--defined-only", prefix / "lib" / "libai4land_coupler.so")
    shown = {line.split()[-1] for line in symbols.splitlines()}
    assert shown == {f"ai4land_{name}" for name in declared("ai4land_coupler.h")} | {"PyInit_ai4land_embedding"}


def test_fortran_interface_covers_the_header() -> None:
    """One bind(c) interface for each function, in the header's order."""
    text = (ROOT / "fortran_shim/src/ai4land_coupler_c.f90").read_text()
    assert re.findall(r"^ +function ai4land_(\w+)\(", text, re.MULTILINE) == declared("ai4land_coupler.h")


def test_both_sides_add_the_same_number() -> None:
    """The offset that tells an answer from cffi's silence."""
    text = (HEADER.parent / "hooks.h").read_text()
    assert re.findall(r"#define AI4LAND_ANSWERED (\d+)", text) == [str(ANSWERED)]
