"""The filters of system calls, run as the kernel would run them, for each machine."""

import errno

import pytest

from kubeserve.runtime.seccomp import ALLOW, ARCHITECTURES, KILL, REFUSE, UNKNOWN, program_of
from kubeserve.runtime.syscalls import NUMBERS

PID = 4321
MACHINES = list(ARCHITECTURES)
BOTH = pytest.mark.parametrize("machine", MACHINES)


def judged(profile: str, machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter returns, by the rules of classic BPF."""
    words = {0: number, 4: architecture or ARCHITECTURES[machine]}
    for index, value in enumerate((*arguments, 0, 0, 0, 0, 0, 0)[:6]):
        words[16 + 8 * index], words[20 + 8 * index] = value & 0xFFFFFFFF, value >> 32
    program = program_of(profile, machine, PID)
    at, register = 0, 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == 0x06:
            return operand
        if code == 0x20:
            register = words[operand]
        elif code == 0x54:
            register &= operand
        else:
            true = {0x15: register == operand, 0x35: register >= operand, 0x45: bool(register & operand)}[code]
            at += yes if true else no


def call(profile: str, machine: str, name: str, *arguments: int) -> int:
    number = NUMBERS[name][MACHINES.index(machine)]
    assert number is not None
    return judged(profile, machine, number, *arguments)


@BOTH
def test_a_call_of_a_foreign_architecture_ends_the_process(machine: str) -> None:
    assert judged("model", machine, 0, architecture=0x40000003) == KILL


@BOTH
def test_calls_that_are_not_known_are_told_as_such_so_that_libraries_fall_back(machine: str) -> None:
    assert judged("model", machine, 0x40000000) == UNKNOWN  # x32
    assert judged("model", machine, 999) == UNKNOWN
    assert call("model", machine, "clone3") == UNKNOWN
    assert UNKNOWN & 0xFFFF == errno.ENOSYS


@BOTH
@pytest.mark.parametrize("profile", ["zygote", "model"])
@pytest.mark.parametrize("name", ["execve", "ptrace", "connect", "io_uring_setup", "mount", "unshare", "bpf", "chmod"])
def test_what_nobody_needs_is_refused(name: str, profile: str, machine: str) -> None:
    if NUMBERS[name][MACHINES.index(machine)] is not None:
        assert call(profile, machine, name) == REFUSE


@BOTH
def test_a_model_makes_threads_and_no_processes(machine: str) -> None:
    assert call("model", machine, "clone", 0x3D0F00) == ALLOW  # as libc makes a thread
    assert call("model", machine, "clone", 0x01200011) == REFUSE  # as libc forks
    assert call("zygote", machine, "clone", 0x01200011) == ALLOW


@BOTH
@pytest.mark.parametrize("name", ["kill", "tgkill"])
def test_a_model_signals_itself_alone(name: str, machine: str) -> None:
    assert call("model", machine, name, PID) == ALLOW
    for other in (PID + 1, 0, 1, 2**64 - 1):
        assert call("model", machine, name, other) == REFUSE
    assert call("zygote", machine, name, PID + 1) == ALLOW


@BOTH
def test_limits_may_be_read_and_not_set(machine: str) -> None:
    assert call("model", machine, "prlimit64", 0, 7, 0, 0x7FFF0000) == ALLOW
    assert call("model", machine, "prlimit64", 0, 7, 2**32, 0) == REFUSE
    assert call("model", machine, "setrlimit") == REFUSE


@BOTH
def test_a_zygote_binds_unix_streams_alone(machine: str) -> None:
    unix, inet, stream, datagram, cloexec = 1, 2, 1, 2, 0o2000000
    assert call("zygote", machine, "socket", unix, stream | cloexec) == ALLOW
    assert call("zygote", machine, "socket", unix, datagram) == REFUSE
    assert call("zygote", machine, "socket", inet, stream) == REFUSE
    assert call("model", machine, "socket", unix, stream) == REFUSE


@BOTH
def test_nothing_is_sent_to_an_address(machine: str) -> None:
    assert call("model", machine, "sendto", 3, 0x7FFF0000, 9, 0, 0, 0) == ALLOW
    assert call("model", machine, "sendto", 3, 0x7FFF0000, 9, 0, 0x7FFF000000000000, 110) == REFUSE


@BOTH
def test_a_model_stays_bound_to_the_life_of_its_zygote(machine: str) -> None:
    assert call("model", machine, "prctl", 1, 0) == REFUSE
    assert call("model", machine, "prctl", 15, 0) == ALLOW
