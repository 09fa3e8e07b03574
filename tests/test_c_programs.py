"""The C library as its users meet it: built, installed, found, linked, and on the command line."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import edgept
from edgept.prompt_file import write_prompt
from tests.c_library import BUILD, SOURCE, c_library, make
from tests.malformed import corpus
from tests.test_c_runtime import IDS, random_prompt

ONNXRUNTIME = BUILD / "onnxruntime"


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    found: subprocess.CompletedProcess[str] = subprocess.run(  # type: ignore[call-overload]
        [str(part) for part in command], capture_output=True, text=True, **options
    )
    return found


@pytest.fixture(scope="module")
def programs() -> Path:
    make("all")
    return BUILD


@pytest.fixture(scope="module")
def installed(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    make("install", f"DESTDIR={folder}", "PREFIX=/usr")
    return folder


def declared_symbols() -> set[str]:
    return set(re.findall(r"\b(edgept_\w+)\(", (SOURCE / "edgept.h").read_text()))


def static_symbols(library: Path) -> set[str]:
    """Names that a program which links the static library meets."""
    shown = run("nm", "--defined-only", "--extern-only", library, check=True)
    return {line.split()[-1] for line in shown.stdout.splitlines() if " " in line}


def test_symbols_and_size(programs: Path, tmp_path: Path) -> None:
    """Nothing but edgept_* is exported; the stripped library is small."""
    shown = run("nm", "-D", "--defined-only", programs / "libedgept.so", check=True)
    symbols = {line.split()[-1] for line in shown.stdout.splitlines()}
    assert symbols <= declared_symbols()
    assert len(symbols) > 30
    assert static_symbols(programs / "libedgept.a") == symbols
    run("strip", "-o", tmp_path / "stripped", programs / "libedgept.so", check=True)
    assert (tmp_path / "stripped").stat().st_size < 200_000


def test_version() -> None:
    assert c_library().edgept_version().decode() == edgept.__version__
    header = (SOURCE / "edgept.h").read_text()
    assert f'EDGEPT_VERSION_STRING "{edgept.__version__}"' in header
    for name, part in zip(("MAJOR", "MINOR", "PATCH"), edgept.__version__.split("."), strict=True):
        assert f"EDGEPT_VERSION_{name} {part}\n" in header
    assert f"VERSION = {edgept.__version__}\n" in (SOURCE / "Makefile").read_text()
    assert f"VERSION {edgept.__version__} " in (SOURCE / "CMakeLists.txt").read_text()


def test_header_of_c_and_of_cpp(tmp_path: Path) -> None:
    """The header alone, and the program that it opens with, compile without a warning."""
    text = (SOURCE / "edgept.h").read_text()
    program = text[text.index("#include <edgept.h>") : text.index(" * What holds")]
    program = "".join(line.removeprefix(" *") + "\n" for line in program.splitlines())
    (tmp_path / "usage.c").write_text(program)
    (tmp_path / "alone.cpp").write_text("#include <edgept.h>\nint main() { return EDGEPT_OK; }\n")
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", f"-I{SOURCE}"]
    make("build/json.o")  # skips where there is no compiler
    run("cc", "-std=c11", *flags, tmp_path / "usage.c", check=True)
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler for the second half")
    run("c++", "-std=c++11", *flags, tmp_path / "alone.cpp", check=True)


def test_installed_library_is_found(installed: Path, tmp_path: Path) -> None:
    """By pkg-config and by CMake's find_package, shared and static."""
    (tmp_path / "main.c").write_text(
        "#include <edgept.h>\n#include <stdio.h>\nint main(void) { puts(edgept_version()); return 0; }\n"
    )
    environment = {
        **os.environ,
        "PKG_CONFIG_LIBDIR": str(installed / "usr/lib/pkgconfig"),
        "PKG_CONFIG_SYSROOT_DIR": str(installed),
        "LD_LIBRARY_PATH": f"{installed}/usr/lib:{ONNXRUNTIME}/lib",
    }
    assert str(BUILD).encode() not in (installed / "usr/bin/edgept-run").read_bytes()  # no RPATH
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")
    link = [f"-L{ONNXRUNTIME}/lib", f"-Wl,-rpath-link,{ONNXRUNTIME}/lib"]
    for static in ([], ["--static"]):
        asked = run(
            "pkg-config", *static, "--cflags", "--libs", "edgept", env=environment, check=True
        )
        flags = asked.stdout.split()
        if static:
            flags = [flag if flag != "-ledgept" else "-l:libedgept.a" for flag in flags]
        run("cc", tmp_path / "main.c", "-o", tmp_path / "main", *flags, *link, check=True)
        assert run(tmp_path / "main", env=environment).stdout.strip() == edgept.__version__
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake for the rest")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(main C)\nfind_package(edgept 0.1 REQUIRED)\n"
        "add_executable(found main.c)\ntarget_link_libraries(found edgept::edgept)\n"
    )
    place = tmp_path / "b"
    configure = ("cmake", "-S", tmp_path, "-B", place, f"-DCMAKE_PREFIX_PATH={installed}/usr")
    found = run(*configure, f"-DONNXRUNTIME={ONNXRUNTIME}")
    assert found.returncode == 0, found.stderr
    assert run("cmake", "--build", tmp_path / "b").returncode == 0
    assert run(tmp_path / "b" / "found", env=environment).stdout.strip() == edgept.__version__


def test_cmake_builds_the_library(programs: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    configured = run("cmake", "-S", SOURCE, "-B", tmp_path, f"-DONNXRUNTIME={ONNXRUNTIME}")
    assert configured.returncode == 0, configured.stderr
    built = run("cmake", "--build", tmp_path, "--parallel", "2")
    assert built.returncode == 0, built.stdout + built.stderr
    assert run(tmp_path / "edgept-run", "--version").stdout == f"edgept-run {edgept.__version__}\n"
    assert static_symbols(tmp_path / "libedgept.a") <= declared_symbols()
    place = tmp_path / "installed"
    assert run("cmake", "--install", tmp_path, "--prefix", place).returncode == 0
    names = {path.name for path in place.rglob("*")}
    assert {"edgept.pc", "edgept-config.cmake", "edgept-config-version.cmake"} <= names


def test_command_line(
    programs: Path,
    bundle_of: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same ids as `edgept run`, and its exit codes."""
    bundle = bundle_of("llama")
    model = edgept.load(bundle, threads=1)
    prompt = tmp_path / "p.safetensors"
    write_prompt(random_prompt(model.manifest, 1), prompt)
    program = programs / "edgept-run"
    ids = " ".join(map(str, IDS))
    expected = model.generate(IDS, prompt=model.load_prompt(prompt), max_new_tokens=12).token_ids
    shown = run(
        program,
        "-b",
        bundle,
        "--prompt",
        prompt,
        "--ids",
        "-n",
        "12",
        "--threads",
        "1",
        "--timings",
        ids,
    )
    assert [int(token) for token in shown.stdout.split()] == expected
    assert "ms/token, 12 tokens" in shown.stderr
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(corpus()["cut-in-the-data"][0])
    other = tmp_path / "other.safetensors"
    write_prompt(random_prompt(edgept.load(bundle_of("gpt2")).manifest, 1), other)
    changed = tmp_path / "changed"
    shutil.copytree(bundle, changed)
    (changed / "edgept.json").write_text("{}")
    for code, arguments in (
        (2, ["-b", tmp_path, "--ids", ids]),
        (2, ["-b", bundle]),
        (2, ["-b", bundle, "--ids", "5 x"]),
        (2, ["-b", bundle, "--ids", "99999"]),
        (2, ["-b", bundle, "--nonsense", ids]),
        (2, ["-b", bundle, "--temperature", "-1", "--ids", ids]),
        (2, ["-b", bundle, "-n", "1.5", "--ids", ids]),
        (2, ["-b", bundle, "--threads", "4294967297", "--ids", ids]),
        (3, ["-b", bundle, "--prompt", broken, "--ids", ids]),
        (4, ["-b", bundle, "--prompt", other, "--ids", ids]),
        (5, ["-b", changed, "--check", "--ids", ids]),
        (0, ["-b", changed, "--ids", ids]),
        (0, ["--help"]),
    ):
        found = run(program, "--threads", "1", *arguments)
        assert found.returncode == code, found.stderr
        assert bool(found.stderr) == (code != 0)
    command = f"EDGEPT_BUNDLE= '{program}' --version >/dev/full"
    assert subprocess.run(command, shell=True, stderr=subprocess.PIPE).returncode == 1
    unset = run(program, "--ids", ids, env={**os.environ, "EDGEPT_BUNDLE": ""}, cwd=tmp_path)
    assert "no bundle at bundle:" in unset.stderr  # as if it were not set


def test_readme_shows_the_example() -> None:
    readme = (SOURCE.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"```c\n{(SOURCE / 'example.c').read_text()}```" in readme


def test_example_answers_as_the_python_runtime(
    programs: Path, bundle_of: Callable[..., Path], tmp_path: Path
) -> None:
    assert len((SOURCE / "example.c").read_text().splitlines()) <= 60
    bundle = bundle_of("llama")
    if not (bundle / "tokenizer.bin").is_file():
        pytest.skip("needs a bundle with a tokenizer.bin")
    model = edgept.load(bundle, threads=1)
    paths = []
    for seed in range(2):
        paths.append(tmp_path / f"{seed}.safetensors")
        write_prompt(random_prompt(model.manifest, seed), paths[-1])
    question = "where is my parcel"
    command: list[str | Path] = [programs / "example", bundle, question, *paths]
    # as bytes: a line may end in anything
    shown = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    for seed, path in enumerate(paths):
        said = model.generate(question, prompt=model.load_prompt(path), max_new_tokens=64)
        assert f"prompt {seed}: {said.text}\n    first token " in shown
