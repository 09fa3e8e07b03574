"""What is built from the tree is the tree: no subpackage forgotten, nothing heavy required."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import edgept

ROOT = Path(__file__).resolve().parents[1]
# Folder in the tree to folder in the package.
SOURCES = {"edgept": "edgept", "export": "edgept/export", "runtime": "edgept/runtime"}
EXTRAS = {"cpu", "gpu", "export", "dev"}
BASE = {"click", "jinja2", "numpy", "pillow", "rich", "safetensors", "tokenizers"}


@dataclass(frozen=True)
class Built:
    """What `python -m build` made: the source archive, and the wheel built from that archive."""

    sdist: Path
    wheel: Path

    def members(self) -> set[str]:
        """Names in the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {name for name in archive.namelist() if not name.endswith("/")}

    def dist_info(self, name: str) -> str:
        """A file of the wheel's metadata."""
        path = f"edgept-{edgept.__version__}.dist-info/{name}"
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.read(path).decode()

    def metadata(self) -> Message:
        """The wheel's METADATA."""
        return Parser().parsestr(self.dist_info("METADATA"))

    def requirements(self, extra: str | None = None) -> dict[str, str]:
        """Name to version range of what the wheel requires, alone or for an extra."""
        found = {}
        for line in self.metadata().get_all("Requires-Dist", []):
            requirement, _, marker = line.partition(";")
            parts = re.fullmatch(r"([\w.-]+)(.*)", requirement.strip())
            assert parts is not None, line
            wanted = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
            if (wanted[1] if wanted else None) == extra:
                found[parts[1].lower()] = parts[2]
        return found


def tree(folder: str) -> set[str]:
    """The files of a folder, links not followed, bytecode and what make built left out."""
    found = set()
    for place, _, names in os.walk(ROOT / folder):
        if not {"__pycache__", "build"} & {*Path(place).relative_to(ROOT).parts}:
            found |= {(Path(place) / name).relative_to(ROOT).as_posix() for name in names}
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build once, offline, from a copy: setuptools leaves folders where it works."""
    pytest.importorskip("build", reason="needs build and setuptools: edgept[dev]")
    try:
        setuptools = version("setuptools")
    except PackageNotFoundError:
        pytest.skip("needs setuptools: edgept[dev]")
    if int(setuptools.partition(".")[0]) < 77:
        pytest.skip(f"setuptools {setuptools} is older than the build needs: edgept[dev]")
    place = tmp_path_factory.mktemp("packaging")
    copy = place / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, copy)
    bytecode = shutil.ignore_patterns("__pycache__", "build")
    for name in ("edgept", "export", "runtime", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=bytecode)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", place / "dist", copy],
        check=True,
        capture_output=True,
        text=True,
    )
    (sdist,) = (place / "dist").glob("*.tar.gz")
    (wheel,) = (place / "dist").glob("*.whl")
    return Built(sdist, wheel)


def test_wheel_is_the_tree(built: Built) -> None:
    """Every module and every file of data beside it, at the place where it is imported from.

    The C library is built from the source archive, not installed.
    """
    expected = set()
    for folder, package in SOURCES.items():
        names = {name for name in tree(folder) if not name.startswith("runtime/c/")}
        expected |= {package + name.removeprefix(folder) for name in names}
    assert {"edgept/export/exporter.py", "edgept/runtime/model.py", "edgept/cli/run.py"} < expected
    assert {"edgept/py.typed", "edgept/prompt_file.md"} < expected
    info = f"edgept-{edgept.__version__}.dist-info"
    assert {name for name in built.members() if not name.startswith(info)} == expected


def test_wheel_runs_from_anywhere(built: Built, tmp_path: Path) -> None:
    """Its mapped packages are found in the wheel itself, not in the tree beside it."""
    with zipfile.ZipFile(built.wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import edgept, edgept.cli, edgept.runtime, importlib.util as u;"
        "print(edgept.__file__, edgept.runtime.__file__, edgept.cli.__file__,"
        "u.find_spec('edgept.export').origin, sep='\\n')"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    site = tmp_path / "site" / "edgept"
    packages = [site, site / "runtime", site / "cli", site / "export"]
    assert shown == [str(package / "__init__.py") for package in packages]


def test_source_archive_builds_and_tests_itself(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "MANIFEST.in"}
    for folder in (*SOURCES, "tests", "benchmarks"):
        assert tree(folder) <= names
    assert not [name for name in names if "__pycache__" in name]


def test_metadata(built: Built) -> None:
    metadata = built.metadata()
    assert metadata["Name"] == "edgept"
    assert metadata["Version"] == edgept.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    entry_points = built.dist_info("entry_points.txt").split("\n")
    assert [line for line in entry_points if line] == [
        "[console_scripts]",
        "edgept = edgept.cli:main",
    ]
    assert built.dist_info("licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_a_device_gets_no_torch(built: Built) -> None:
    assert built.requirements().keys() == BASE
    assert built.requirements("cpu").keys() == {"onnxruntime"}
    assert built.requirements("gpu").keys() == {"onnxruntime-gpu"}
    assert built.requirements("export").keys() >= {"torch", "transformers", "onnxruntime", "peft"}
    for extra in (None, *EXTRAS):
        for name, bounds in built.requirements(extra).items():
            assert ">=" in bounds, f"{name}: a lower bound says the oldest version that was tried"


def test_lowest_onnxruntime_is_said_once(built: Built) -> None:
    """A bundle's manifest and the package ask for the same one."""
    describe = (ROOT / "export" / "describe.py").read_text(encoding="utf-8")
    said = re.search(r'^_MIN_ONNXRUNTIME = "([\d.]+)"$', describe, re.MULTILINE)
    assert said is not None
    for extra, name in (("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu")):
        assert built.requirements(extra)[name] == f">={said[1].removesuffix('.0')}"


def test_links_of_the_mapped_folders() -> None:
    for name in ("export", "runtime"):
        assert (ROOT / "edgept" / name).readlink() == Path("..") / name
