"""Energy from what a device tells: lines of tegrastats, RAPL's counters."""

import time
from pathlib import Path

import pytest

from edgept.bench.power import energy_meter, input_watts, rapl_packages

ORIN = (
    "RAM 2448/7607MB (lfb 4x4MB) SWAP 0/3804MB (cached 0MB) CPU [1%@729,0%@729] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 0%@[0] CPU@45.5C SOC2@44.9C VDD_IN 4812mW/4790mW VDD_CPU_GPU_CV 482mW/480mW "
    "VDD_SOC 1446mW/1446mW"
)
NANO = "RAM 1/3956MB IRAM 0/252kB(lfb 252kB) CPU [2%@102] POM_5V_IN 2532/2532 POM_5V_GPU 0/0"
AGX_ORIN = "GR3D_FREQ 0% VDD_GPU_SOC 2400mW/2400mW VDD_CPU_CV 800mW/800mW VIN_SYS_5V0 3000mW/3000mW"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (ORIN, ("VDD_IN", 4.812)),
        (NANO, ("POM_5V_IN", 2.532)),
        (AGX_ORIN, ("VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0", 6.2)),
        ("RAM 2448/7607MB SWAP 0/3804MB", None),
    ],
)
def test_the_input_rail(line: str, expected: tuple[str, float] | None) -> None:
    found = input_watts(line)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] == expected[0]
        assert found[1] == pytest.approx(expected[1])


def test_a_jetson(tmp_path: Path) -> None:
    """5 W for a while: the energy is that, within what the short time lets one see."""
    program = tmp_path / "usr/bin/tegrastats"
    program.parent.mkdir(parents=True)
    line = "RAM 1/2MB VDD_IN 5000mW/5000mW"
    program.write_text(f"#!/bin/sh\nwhile :; do echo '{line}'; sleep 0.02; done\n")
    program.chmod(0o755)
    with energy_meter(tmp_path) as energy:
        time.sleep(0.6)
    assert energy.source == "tegrastats VDD_IN"
    assert energy.joules is not None
    assert energy.joules == pytest.approx(5 * energy.seconds, rel=0.4)
    assert energy.reason == ""


def zone(root: Path, name: str, number: str, microjoules: int) -> Path:
    folder = root / "sys/class/powercap" / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text("999999999\n")
    return folder


def test_rapl_counts_over_its_end(tmp_path: Path) -> None:
    package = zone(tmp_path, "package-0", "0", 990_000_000)
    zone(tmp_path, "core", "0:0", 5)
    (zone(tmp_path, "package-1", "1", 7) / "energy_uj").unlink()  # not readable
    assert rapl_packages(tmp_path) == [package]
    with energy_meter(tmp_path) as energy:
        (package / "energy_uj").write_text("15000000\n")
    assert energy.source == "RAPL package-0"
    assert energy.joules == pytest.approx(25.0)


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    with energy_meter(tmp_path) as energy:
        pass
    assert energy.joules is None
    assert "nothing tells" in energy.reason


def test_a_jetson_whose_tool_says_nothing(tmp_path: Path) -> None:
    program = tmp_path / "usr/bin/tegrastats"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    with energy_meter(tmp_path) as energy:
        pass
    assert energy.joules is None
    assert "no power" in energy.reason
