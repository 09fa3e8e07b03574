"""How much of the machine other programs took meanwhile: a figure is worth little where they did."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Disturbance"]


@dataclass(frozen=True)
class Disturbance:
    """Where the clocks stood when a measurement began.

    Attributes:
        wall_s: monotonic.
        busy_s: processor time of all programs, the kernel's and a hypervisor's share included.
        own_s: that of this process and of its children that have ended.
    """

    wall_s: float
    busy_s: float
    own_s: float

    @staticmethod
    def begin(root: Path = Path("/")) -> "Disturbance":
        """Read the clocks."""
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        # cpu user nice system idle iowait irq softirq steal …, in ticks
        ticks = (root / "proc/stat").read_text(encoding="ascii").split(maxsplit=9)[1:9]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks)
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return Disturbance(time.monotonic(), busy, own)

    def share(self, root: Path = Path("/")) -> float:
        """Part of all cores' time since then that went to other programs, from 0 to 1.

        Children have to have ended: before, their time counts as others'.
        """
        now = Disturbance.begin(root)
        others = (now.busy_s - self.busy_s) - (now.own_s - self.own_s)
        return max(0.0, others / ((now.wall_s - self.wall_s) * (os.cpu_count() or 1)))
