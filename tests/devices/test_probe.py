"""The probe: a machine as its system files describe it, on file trees written like the real ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pdtool.devices.probe import Gpu, Machine, probe, profile_of

MEMINFO = "MemTotal:        7802364 kB\nMemFree:          203940 kB\nMemAvailable:    5432100 kB\n"
ORIN = {
    "proc/meminfo": MEMINFO,
    "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
}


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def no_command(command: Sequence[str]) -> None:
    return None


def test_this_machine_is_read_without_a_gpu_library() -> None:
    machine = probe()
    assert machine.cores >= 1 and machine.cpu
    assert 0 < machine.memory_available_bytes <= machine.memory_bytes


def test_an_orin_nano_in_super_mode(tmp_path: Path) -> None:
    machine = probe(tree(tmp_path, ORIN), no_command)
    assert machine.memory_available_bytes == 5432100 * 1024
    assert machine.cpu == "Arm CPU part 0xd42"
    assert machine.jetson is not None
    assert (machine.jetson.l4t, machine.jetson.jetpack) == ("36.4.3", "6.2")
    profile = profile_of(machine)
    assert profile is not None and profile.id == "jetson-orin-nano-8gb-super"


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("R32 (release), REVISION: 7.6", "4"),
        ("R36 (release), REVISION: 3.0", "6.0"),
        ("R39 (release), REVISION: 2.0", "7.2"),
    ],
)
def test_the_jetpack_follows_from_the_release(tmp_path: Path, release: str, jetpack: str) -> None:
    files = {"etc/nv_tegra_release": f"# {release}, GCID: 1\n", "proc/device-tree/model": "NVIDIA Jetson TX2\0"}
    machine = probe(tree(tmp_path, files), no_command)
    assert machine.jetson is not None and machine.jetson.jetpack == jetpack
    profile = profile_of(machine)
    assert profile is not None and profile.id == "jetson-tx2"


def test_an_unknown_release_has_no_jetpack_and_an_unknown_board_no_profile(tmp_path: Path) -> None:
    files = {
        "etc/nv_tegra_release": "# R99 (release), REVISION: 1.0\n",
        "proc/device-tree/model": "NVIDIA Jetson Novum\0",
    }
    machine = probe(tree(tmp_path, files), no_command)
    assert machine.jetson is not None and machine.jetson.jetpack is None
    assert profile_of(machine) is None


def test_a_raspberry_pi_is_no_jetson(tmp_path: Path) -> None:
    files = {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/cpuinfo": "Model\t\t: Raspberry Pi 5\n",
    }
    machine = probe(tree(tmp_path, files), no_command)
    assert (machine.jetson, machine.gpus, machine.cpu) == (None, (), "Raspberry Pi 5")


def test_nvidia_smi_names_the_gpus(tmp_path: Path) -> None:
    lines = "NVIDIA H100 80GB HBM3, 81559, 9.0, 580.65.06\nNVIDIA GeForce RTX 3060, [N/A], [N/A], 580.65.06\n"
    machine = probe(tree(tmp_path, {}), lambda command: lines if command[0] == "nvidia-smi" else None)
    assert machine.gpus == (
        Gpu(name="NVIDIA H100 80GB HBM3", memory_bytes=81559 * 2**20, compute_capability="9.0", driver="580.65.06"),
        Gpu(name="NVIDIA GeForce RTX 3060", memory_bytes=None, compute_capability=None, driver="580.65.06"),
    )


@pytest.mark.parametrize(
    "version",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16)\n",
    ],
)
def test_without_nvidia_smi_the_driver_files_name_them(tmp_path: Path, version: str) -> None:
    files = {
        "proc/driver/nvidia/version": version,
        "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA GeForce RTX 4060\nIRQ:   \t\t 93\n",
    }
    (gpu,) = probe(tree(tmp_path, files), no_command).gpus
    assert (gpu.name, gpu.driver, gpu.memory_bytes) == ("NVIDIA GeForce RTX 4060", "550.54.15", None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4060", "rtx-4060"),
        ("NVIDIA GeForce RTX 4060 Ti", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-40GB", None),
    ],
)
def test_a_gpu_is_only_taken_for_the_board_it_is(name: str, expected: str | None) -> None:
    gpu = Gpu(name=name, memory_bytes=None, compute_capability=None, driver=None)
    machine = Machine(
        cpu="x", cores=1, memory_bytes=1, memory_available_bytes=1, memory_limit_bytes=None, gpus=(gpu,), jetson=None
    )
    profile = profile_of(machine)
    assert (profile.id if profile else None) == expected


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"sys/fs/cgroup/memory.max": "536870912\n"}, 536870912),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    ],
)
def test_a_containers_memory_limit_is_seen(tmp_path: Path, files: Mapping[str, str], limit: int | None) -> None:
    assert probe(tree(tmp_path, files), no_command).memory_limit_bytes == limit
