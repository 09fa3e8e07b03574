"""What a device does while it is measured: clock, temperature, load."""

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Conditions"]

ROOT = Path("/")


@dataclass(frozen=True)
class Conditions:
    """At one moment; None where the kernel does not say.

    Attributes:
        mhz: clock of the fastest core.
        governor: cpufreq's; several joined by a comma.
        temperature_c: of the hottest thermal zone.
        load: processes that want a core, the last minute's average.
    """

    mhz: int | None
    governor: str | None
    temperature_c: float | None
    load: float

    @staticmethod
    def read(root: Path = ROOT) -> "Conditions":
        """Read /sys; a millisecond or less, so that it may be done between two requests."""
        policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
        clocks = [_number(policy / "scaling_cur_freq") for policy in policies]
        zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
        heats = [_number(zone / "temp") for zone in zones]
        kilohertz = max((clock for clock in clocks if clock is not None), default=None)
        millidegrees = max((heat for heat in heats if heat is not None), default=None)
        governors = {_text(policy / "scaling_governor") for policy in policies} - {""}
        return Conditions(
            mhz=None if kilohertz is None else kilohertz // 1000,
            governor=", ".join(sorted(governors)) or None,
            temperature_c=None if millidegrees is None else millidegrees / 1000,
            load=os.getloadavg()[0],
        )


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:  # a zone that is switched off fails to be read
        return ""
