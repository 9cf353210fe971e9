"""What the kernel has of programs, maps and links: bpf(2), /proc/PID/fdinfo."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
from pathlib import Path

SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_LINK_GET_FD_BY_ID = 30
_KINDS = ("anon_inode:bpf-map", "anon_inode:bpf-prog", "anon_inode:bpf_link", "anon_inode:bpf-link")


def link_id(fd: int) -> int:
    """proc_pid_fdinfo(5): of a link."""
    found = re.search(r"^link_id:\s*(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def link_exists(id_: int) -> bool:
    """Whether any process has it, or it is pinned. Requires CAP_SYS_ADMIN."""
    attributes = ctypes.create_string_buffer(id_.to_bytes(4, "little"), 16)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(SYS_BPF, _LINK_GET_FD_BY_ID, attributes, ctypes.c_uint(16))
    if fd >= 0:
        os.close(fd)
        return True
    assert ctypes.get_errno() == errno.ENOENT, os.strerror(ctypes.get_errno())
    return False


def held() -> list[str]:
    """Maps, programs and links that this process keeps, by descriptors or mappings."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the directory's own
            continue
    mapped = re.findall(r"anon_inode:bpf-map", Path("/proc/self/maps").read_text())
    return sorted([one for one in found if one in _KINDS] + mapped)


def memory_of_maps(pid: int) -> dict[str, int]:
    """Bytes that the kernel has for each map of a process, by the map's id: /proc/PID/fdinfo."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            said = dict(re.findall(r"^(map_id|memlock):\s*(\d+)", Path(f"/proc/{pid}/fdinfo/{name}").read_text(), re.M))
        except FileNotFoundError:  # closed meanwhile
            continue
        if "map_id" in said:
            found[said["map_id"]] = int(said["memlock"])
    return found
