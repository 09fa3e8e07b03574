"""Energy of a run, where the device tells: a Jetson's input rail, or the counters of an x86 package."""

import importlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["Energy", "energy_meter", "input_watts", "rapl_packages"]

ROOT = Path("/")
_INTERVAL_S = 0.1
# A board's input rail by generation; where none is listed, the rails of an AGX Orin add up to it.
_INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "SYS5V", "VIN")
# "VDD_IN 4812mW/4790mW" or, before JetPack 5, "POM_5V_IN 2532/2532"; "RAM 2448/7860MB" is no rail.
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)")


@dataclass
class Energy:
    """What was used between the begin and the end of a measurement.

    Attributes:
        source: "tegrastats VDD_IN", "jtop", "RAPL package-0"; "" where nothing tells.
        reason: why there is no figure, "" where there is.
        joules: None where nothing tells.
        seconds: that were measured.
    """

    source: str = ""
    reason: str = ""
    joules: float | None = None
    seconds: float = 0.0


@dataclass
class _Integral:
    """Watts over time."""

    joules: float = 0.0
    last: tuple[float, float] | None = None
    rails: set[str] = field(default_factory=set)

    def add(self, watts: float) -> None:
        now = time.monotonic()
        if self.last is not None:
            self.joules += (watts + self.last[1]) / 2 * (now - self.last[0])
        self.last = (now, watts)


@contextmanager
def energy_meter(root: Path = ROOT) -> Iterator[Energy]:
    """Measure all that runs inside the block; the figure stands in the object when the block has ended.

    On a Jetson, tegrastats and else jtop are asked ten times a second; elsewhere RAPL's counters
    where this user may read them (/sys/class/powercap).
    """
    energy = Energy()
    began = time.monotonic()
    tegrastats = _find_tegrastats(root)
    jtop = None if tegrastats else _find_jtop(root)
    packages = rapl_packages(root)
    if tegrastats is not None:
        with _tegrastats(tegrastats, energy):
            yield energy
    elif jtop is not None:
        with _jtop(jtop, energy):
            yield energy
    elif packages:
        with _rapl(packages, energy):
            yield energy
    else:
        energy.reason = (
            "nothing tells: no tegrastats or jtop, and no RAPL counter that this user may read"
        )
        yield energy
    energy.seconds = time.monotonic() - began


def input_watts(line: str) -> tuple[str, float] | None:
    """The rail that feeds a Jetson, and its watts, from a line of tegrastats; None without rails."""
    rails = {name: int(milliwatts) / 1e3 for name, milliwatts in _RAIL.findall(line)}
    for name in _INPUT_RAILS:
        if name in rails:
            return name, rails[name]
    return ("+".join(rails), sum(rails.values())) if rails else None


def rapl_packages(root: Path = ROOT) -> list[Path]:
    """The counters of whole processor packages that this user may read."""
    found = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
            int((zone / "energy_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):  # readable by root only on most systems
            continue
        if name.startswith("package"):
            found.append(zone)
    return found


def _find_tegrastats(root: Path) -> str | None:
    path = None if root == ROOT else str(root / "usr/bin")
    return shutil.which("tegrastats", path=path)


def _find_jtop(root: Path) -> ModuleType | None:
    if root != ROOT:
        return None
    try:
        return importlib.import_module("jtop")
    except ImportError:
        return None


@contextmanager
def _tegrastats(program: str, energy: Energy) -> Iterator[None]:
    integral = _Integral()
    command = [program, "--interval", str(int(_INTERVAL_S * 1000))]
    with subprocess.Popen(  # noqa: S603 - a fixed command with fixed arguments
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        lines: Any = process.stdout

        def read() -> None:
            for line in lines:
                seen = input_watts(line)
                if seen is not None:
                    integral.rails.add(seen[0])
                    integral.add(seen[1])

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield
        finally:
            process.terminate()
            reader.join()
    _conclude(energy, integral, f"tegrastats {' '.join(sorted(integral.rails))}")


@contextmanager
def _jtop(jtop: ModuleType, energy: Energy) -> Iterator[None]:
    integral = _Integral()
    with (
        jtop.jtop(interval=_INTERVAL_S) as board,
        _polling(lambda: integral.add(board.power["tot"]["power"] / 1e3)),
    ):
        yield
    _conclude(energy, integral, "jtop")


def _conclude(energy: Energy, integral: _Integral, source: str) -> None:
    if integral.joules > 0:
        energy.source, energy.joules = source, integral.joules
    else:
        energy.reason = f"{source.strip()} gave no power during the run"


@contextmanager
def _rapl(packages: list[Path], energy: Energy) -> Iterator[None]:
    counters = [_Counter(zone) for zone in packages]

    def read() -> None:
        for counter in counters:
            counter.read()

    with _polling(read):
        yield
    names = " ".join((zone / "name").read_text(encoding="ascii").strip() for zone in packages)
    energy.source = f"RAPL {names}"
    energy.joules = sum(counter.joules for counter in counters)


class _Counter:
    """A counter of microjoules that begins again at 0 every few minutes."""

    def __init__(self, zone: Path) -> None:
        self._zone = zone
        self._range = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
        self._last = self._now()
        self.joules = 0.0

    def read(self) -> None:
        now = self._now()
        self.joules += (now - self._last) % (self._range + 1) / 1e6
        self._last = now

    def _now(self) -> int:
        return int((self._zone / "energy_uj").read_text(encoding="ascii"))


@contextmanager
def _polling(read: Any) -> Iterator[None]:
    """Call a function ten times a second from a thread, and once more at the end."""
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(_INTERVAL_S):
            read()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        read()
