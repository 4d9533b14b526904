"""The C layer under AddressSanitizer, UndefinedBehaviourSanitizer and valgrind."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from building import HOSTS, Compile, run
from mpi import ROOT, mpirun

STUB = Path(__file__).parent / "stub"
OURS = re.compile(r"\b(hooks|desk|host|python|embedding)\.c:\d")
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g", "-O1")


def can_sanitize(folder: Path) -> bool:
    """Whether the compiler has the runtime of its sanitizers."""
    source = folder / "probe.c"
    source.write_text("int main(void) { return 0; }\n")
    command = ["mpicc", *FLAGS, str(source), "-o", str(folder / "probe")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """sanitized("name.c") -> a host on a library that was built with the sanitizers, like the host."""
    folder = tmp_path_factory.mktemp("sanitized")
    if not can_sanitize(folder):
        pytest.skip("the compiler has no AddressSanitizer: install libasan and libubsan of its version")
    prefix, build = folder / "prefix", folder / "build"
    options = f"-DCMAKE_C_FLAGS={' '.join(FLAGS)}", f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DPython={sys.executable}"
    run("cmake", "-S", ROOT / "fortran_shim", "-B", build, *options)
    run("cmake", "--build", build)
    run("cmake", "--install", build)

    def compiled(source: str) -> Path:
        program = folder / source.removesuffix(".c")
        link = [f"-L{prefix / 'lib'}", "-lai4land_coupler", f"-Wl,-rpath,{prefix / 'lib'}", "-lm", "-ldl", "-rdynamic"]
        sources = HOSTS / source, HOSTS / "no_deepbind.c"
        run("mpicc", "-std=gnu99", *FLAGS, f"-I{prefix / 'include'}", *sources, "-o", program, *link)
        return program

    return compiled


def watched(folder: Path) -> dict[str, str]:
    """Settings of the sanitizers: reports go to files, leaks are reported and judged here."""
    return {
        "ASAN_OPTIONS": f"log_path={folder / 'asan'}:detect_leaks=1:exitcode=0:handle_segv=1:abort_on_error=0"
        ":detect_stack_use_after_return=1:alloc_dealloc_mismatch=1:fast_unwind_on_malloc=0:malloc_context_size=6",
        "LSAN_OPTIONS": f"log_path={folder / 'lsan'}:max_leaks=0:report_objects=0",
        "UBSAN_OPTIONS": f"log_path={folder / 'ubsan'}:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }


def leaks_of_ours(report: str) -> list[str]:
    """Leaks whose memory was asked for by the C layer itself: its frame stands right above malloc's."""
    blocks = re.split(r"\n\n", report)
    return [b for b in blocks if "leak of" in b and OURS.search("\n".join(b.splitlines()[1:3]))]


@pytest.mark.parametrize(
    ("source", "ranks"), [("layer.c", 1), ("layer.c", 2), pytest.param("statuses.c", 2, marks=pytest.mark.long)]
)
def test_clean_under_sanitizers(sanitized: Compile, config: Path, tmp_path: Path, source: str, ranks: int) -> None:
    """No bad access, no undefined behaviour, no memory that the C layer does not give back; layer.c with a stub."""
    program = sanitized(source)
    stub = source == "layer.c"
    path = {"PYTHONPATH": str(STUB)} if stub else {}
    args = ("20",) if stub else (config, tmp_path)
    done = mpirun(ranks, program, *args, env=watched(tmp_path) | path, timeout=300)
    reports = "".join(file.read_text() for file in tmp_path.glob("*san.*"))
    assert done.returncode == 0, done.stderr[-3000:] + reports[-3000:]
    errors = re.findall(r"ERROR: AddressSanitizer.*|runtime error:.*", done.stderr + reports)
    assert not errors, (errors, reports[:3000])
    assert not leaks_of_ours(reports), leaks_of_ours(reports)[0]
    print(f"{source} on {ranks} ranks: {len(re.findall('leak of', reports))} leaks of others, none of the C layer")


def test_clean_under_valgrind(compiled: Compile, tmp_path: Path) -> None:
    """No bad access and no use of what was never set below a frame of the C layer; nothing lost that it asked for."""
    if not shutil.which("valgrind"):
        pytest.skip("valgrind is not on PATH: install valgrind")
    program, log = compiled("layer.c"), tmp_path / "valgrind"
    tool = [
        "valgrind",
        "--leak-check=full",
        "--show-leak-kinds=definite,indirect",
        "--num-callers=30",
        f"--log-file={log}",
    ]
    supp = Path(sys.base_prefix) / "share" / "openmpi" / "openmpi-valgrind.supp"
    tool += [f"--suppressions={supp}"] if supp.exists() else []
    env = {"PYTHONMALLOC": "malloc", "PYTHONPATH": str(STUB)}
    done = mpirun(1, *tool, program, "3", env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    blocks = re.split(r"==\d+== \n", log.read_text())
    ours = [b for b in blocks if re.search(r"Invalid|uninitialised|lost in loss|free\(\)", b) and first_frames(b)]
    assert not ours, ours[:3]
    assert any("ERROR SUMMARY" in b for b in blocks)
    print(f"valgrind: {len(blocks)} entries, none of the C layer")


def first_frames(block: str) -> bool:
    """Whether the frame at fault, or the one that called the C library there, is the C layer's."""
    frames = re.findall(r"(?:at|by) 0x[0-9A-F]+: (.*)", block)
    return any("libai4land_coupler.so" in frame for frame in frames[:3])
