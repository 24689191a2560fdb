"""Models that mean harm, each with its stated end: nothing gets out, and no other replica notices.

Each runs for real in a replica, as whatever user runs the tests, root included.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicas import FILE, RUNTIME, Ended, Replica, Zygote, pickled

GOOD = "class Model:\n    def predict(self, rows): return [sum(row) for row in rows]"
REFUSED = (errno.EPERM, errno.EACCES)
ATTEMPT = """
import ctypes, os, resource, signal, socket, subprocess, sys, threading
kernel = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(kernel, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
try:
    found = {what}
except BaseException as error:
    raise RuntimeError(f"refused {{getattr(error, 'errno', None)}} by {{type(error).__name__}}")
raise RuntimeError("ESCAPED " + repr(found)[:200])
"""

# What a model tries, as an expression. MODELS, RUN, SCRATCH, PARENT, OTHER and ENVIRONMENT are filled in.
ATTEMPTS = {
    "reads the passwords": "open('/etc/passwd').read()",
    "lists the root": "os.listdir('/')",
    "reads a file of the platform": "open(RUNTIME + '/zygote.py').read()",
    "reads another model": "open(MODELS + '/other.pickle', 'rb').read()",
    "lists the models": "os.listdir(MODELS)",
    "lists the scratch of others": "os.listdir(SCRATCH)",
    "reads the scratch of another replica": "open(SCRATCH + '/' + OTHER + '.d/secret').read()",
    "writes into the scratch of another replica": "open(SCRATCH + '/' + OTHER + '.d/planted', 'w')",
    "reads its log": "open(RUN + '/' + OTHER + '.log').read()",
    "reaches what its zygote has open": "open(f'/proc/{PARENT}/fd/2', 'w')",
    "reads its own environment": "open('/proc/self/environ').read()",
    "reads the memory of its zygote": "open(f'/proc/{PARENT}/mem', 'rb').read(1)",
    "reads the environment of its zygote": "open(f'/proc/{PARENT}/environ').read()",
    "reads the environment of the first process": "open('/proc/1/environ').read()",
    "reads the memory of its zygote by a call": "call('process_vm_readv', PARENT, 0, 0, 0, 0, 0)",
    "traces its zygote": "call('ptrace', 16, PARENT, 0, 0)",
    "writes beside its model": "open(MODELS + '/planted', 'w')",
    "overwrites its model": "open(MODELS + '/other.pickle', 'wb')",
    "truncates a model": "os.truncate(MODELS + '/other.pickle', 0)",
    "changes the mode of a model": "os.chmod(MODELS + '/other.pickle', 0)",
    "changes the owner of a model": "os.chown(MODELS + '/other.pickle', 1, 1)",
    "changes the times of a model": "os.utime(MODELS + '/other.pickle', (0, 0))",
    "deletes a model": "os.unlink(MODELS + '/other.pickle')",
    "takes the socket of another replica away": "os.unlink(RUN + '/' + OTHER)",
    "plants a module in its environment": "open(ENVIRONMENT + '/planted.py', 'w')",
    "writes outside": "open('/tmp/planted-by-a-model', 'w')",
    "links out of its scratch": "os.symlink('/etc/passwd', 'passwd')",
    "makes a device": "os.mknod('memory', 0o20600, os.makedev(1, 1))",
    "opens a TCP socket": "socket.socket()",
    "opens a UDP socket": "socket.socket(type=socket.SOCK_DGRAM)",
    "opens a Unix socket": "socket.socket(socket.AF_UNIX)",
    "opens a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "opens a netlink socket": "socket.socket(16, socket.SOCK_RAW, 0)",
    "opens a pair of sockets": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "connects a descriptor": "call('connect', 3, b'\\x01\\x00/run/docker.sock', 18)",
    "forks": "os.fork()",
    "runs a program": "subprocess.run(['/bin/true'])",
    "spawns a program": "os.posix_spawn('/bin/true', ['true'], {})",
    "becomes a program": "os.execv('/bin/true', ['true'])",
    "kills its zygote": "os.kill(PARENT, 9)",
    "kills all": "os.kill(-1, 9)",
    "kills its group": "os.kill(0, 9)",
    "stops another replica": "os.kill(OTHER_PID, signal.SIGSTOP)",
    "signals a thread of its zygote": "call('syscall', 200 if X86 else 130, PARENT, 9)",
    "queues a signal": "call('sigqueue', PARENT, 9, 0)",
    "gets a descriptor of its zygote": "os.pidfd_open(PARENT)",
    "outlives its zygote": "call('prctl', 1, 0, 0, 0, 0)",
    "sends signals by a descriptor": "__import__('fcntl').fcntl(0, 8, PARENT)",
    "slows its zygote": "os.sched_setaffinity(PARENT, {0})",
    "changes the limits of its zygote": "call('prlimit', PARENT, 7, (ctypes.c_ulong * 2)(4, 4), 0)",
    "changes its own limits": "call('prlimit', 0, 9, (ctypes.c_ulong * 2)(2**50, 2**50), 0)",
    "becomes another user": "os.setuid(65534)",
    "leaves its namespaces": "call('unshare', 0x10000000)",
    "mounts": "call('mount', b'none', b'.', b'tmpfs', 0, 0)",
    "changes its root": "os.chroot('.')",
    "makes a file without a name": "os.memfd_create('x')",
    "shares memory beyond its end": "call('shmget', 0, 4096, 0o1600)",
    "uses keys of the kernel": "call('syscall', 250 if X86 else 219, 0, -3, 0)",
    "uses io_uring": "call('syscall', 425, 1, ctypes.create_string_buffer(120))",
    "loads a program into the kernel": "call('syscall', 321 if X86 else 280, 0, 0, 0)",
    "watches files": "call('inotify_init1', 0)",
    "traces the machine": "call('syscall', 298 if X86 else 241, 0, 0, 0, 0, 0)",
}  # fmt: skip


@pytest.fixture(scope="module")
def python(science: Path) -> Path:
    return science / "bin" / "python"


@pytest.fixture(scope="module")
def zygote(python: Path) -> Iterator[Zygote]:
    with Zygote(python, "--preload", "joblib,numpy") as zygote:
        yield zygote


@pytest.fixture(scope="module")
def bystander(zygote: Zygote) -> Replica:
    """Another replica of the zygote, with a secret in its scratch and its own model file."""
    source = f"open('secret', 'w').write('of another')\n{GOOD}"
    replica = zygote.replica(zygote.place(source, "other.pickle"))
    assert replica.ask("ready")["ready"]
    return replica


@pytest.fixture(autouse=True)
def unharmed(zygote: Zygote, bystander: Replica) -> Iterator[None]:
    """After each: the bystander answers as before, the zygote forks, the model files are as they were."""
    before = (zygote.models / "other.pickle").stat()
    yield
    assert bystander.predict([1, 2]) == {"predictions": [3]}
    after = zygote.replica(zygote.models / "other.pickle")
    assert after.predict([2, 3]) == {"predictions": [5]}
    assert after.stop()["reason"] == "stopped as asked"
    now = (zygote.models / "other.pickle").stat()
    assert (now.st_mode, now.st_uid, now.st_size, now.st_mtime) == (
        before.st_mode, before.st_uid, before.st_size, before.st_mtime,
    )  # fmt: skip


def filled(what: str, zygote: Zygote, bystander: Replica, python: Path) -> str:
    names = {
        "MODELS": str(zygote.models), "RUNTIME": str(RUNTIME), "X86": os.uname().machine == "x86_64",
        "RUN": str(zygote.run), "SCRATCH": str(zygote.scratch), "OTHER": bystander.name, "OTHER_PID": bystander.pid,
        "PARENT": zygote.process.pid, "ENVIRONMENT": str(next(python.parent.parent.glob("lib/python*/site-packages"))),
    }  # fmt: skip
    return "\n".join(f"{name} = {value!r}" for name, value in names.items()) + ATTEMPT.format(what=what)


@pytest.mark.parametrize("what", ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_what_a_model_tries_is_refused_by_the_kernel(
    what: str, zygote: Zygote, bystander: Replica, python: Path
) -> None:
    replica = zygote.replica(filled(what, zygote, bystander, python))
    error = replica.ask("ready")["error"]
    replica.stop()
    assert error["code"] == "load_failed"
    assert error["message"].startswith(tuple(f"RuntimeError: refused {number} by" for number in REFUSED)), error
    assert not Path("/tmp/planted-by-a-model").exists()  # noqa: S108 - the name that the model tried


def test_a_hard_link_takes_no_file_into_the_scratch(zygote: Zygote, bystander: Replica, python: Path) -> None:
    what = "os.link(MODELS + '/other.pickle', 'mine')"
    replica = zygote.replica(filled(what, zygote, bystander, python))
    assert "refused" in replica.ask("ready")["error"]["message"]
    replica.stop()


def test_a_command_of_a_shell_does_not_run(zygote: Zygote, bystander: Replica, python: Path) -> None:
    replica = zygote.replica(filled("os.system('exit 7')", zygote, bystander, python))
    message = replica.ask("ready")["error"]["message"]
    assert message == f"RuntimeError: ESCAPED {127 << 8}"  # what libc answers where no shell can be started
    replica.stop()


# What a file does while it loads, and the code and words of the answer to whoever asks whether it is ready.
LOADS = {
    "ends the interpreter": ("raise SystemExit(0)", "load_failed", "SystemExit: 0"),
    "raises what no handler catches": ("class Own(BaseException): pass\nraise Own('no')", "load_failed", "Own: no"),
    "raises what cannot be told": (
        "class Own(Exception):\n    def __str__(self): raise SystemExit\nraise Own",
        "load_failed",
        "Own",
    ),
    "raises a book": ("raise ValueError('x' * 10**7)", "load_failed", "xxx…"),
    "takes 10 GB": ("x = bytearray(10 * 2**30)", "out_of_memory", "more memory"),
    "takes 10 GB piece by piece": ("x = []\nwhile True: x.append(bytearray(2**20))", "out_of_memory", "more memory"),
    "takes 10 GB by shared pages": (
        "import mmap\nx = []\nwhile True: x.append(mmap.mmap(-1, 2**26))", "load_failed", "Cannot allocate memory",
    ),
    "takes 100,000 threads": (
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
        "load_failed",
        "can't start new thread",
    ),
    "recurses for ever": ("def f(): f()\nf()", "load_failed", "RecursionError"),
    "has no predict": ("class Model: pass", "not_a_model", "no method predict"),
    "needs a module": ("import sklearnex", "module_missing", "register_pickle_by_value(sklearnex)"),
    "looks for the platform": ("import aiohttp", "module_missing", "add aiohttp"),
    "opens 10,000 files": ("x = [open('/dev/null') for _ in range(10000)]", "load_failed", "Too many open files"),
    "writes a file of 10 GB": (
        "with open('x', 'wb', 0) as f:\n    while True: f.write(bytes(2**20))", "load_failed", "File too large",
    ),
    "fills its scratch": (
        "for n in range(10000):\n    with open(str(n), 'wb', 0) as f: f.write(bytes(2**22))",
        "load_failed",
        "No space left",
    ),
    "makes a million files": ("for n in range(10**6): open(str(n), 'w').close()", "load_failed", "No space left"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "code", "words"), LOADS.values(), ids=LOADS.keys())
def test_a_file_that_misbehaves_while_it_loads_is_told(source: str, code: str, words: str, zygote: Zygote) -> None:
    if words == "No space left" and zygote.hello["level"]["scratch"] != "tmpfs":
        pytest.skip("without a mount namespace the place bounds the scratch")
    replica = zygote.replica(source)
    answer = replica.ask("ready")
    ended = replica.stop()
    assert answer["error"]["code"] == code, answer
    assert words in answer["error"]["message"]
    assert len(answer["error"]["message"]) < 1000
    assert ended["reason"] == "stopped as asked"


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"no pickle", pickled(GOOD)[:-9], b"PK\x03\x04" + bytes(99)])
@pytest.mark.parametrize("form", ["pickle", "joblib", "skops", "onnx"])
def test_a_file_that_is_none_is_told(content: bytes, form: str, zygote: Zygote) -> None:
    replica = zygote.replica(content, form)
    assert replica.ask("ready")["error"]["code"] == "load_failed"
    replica.stop()


# What predict does, and the answer: code and row.
PREDICTS: dict[str, tuple[str, str, int | None]] = {
    "not a number": ("return [1.0, float('nan')]", "not_finite", 1),
    "infinite": ("return [float('-inf'), 1]", "not_finite", 0),
    "not a number, nested": ("import numpy; return numpy.array([[1, 2], [3, numpy.nan]])", "not_finite", 1),
    "too few": ("return [1]", "bad_prediction", None),
    "too many": ("return [1, 2, 3]", "bad_prediction", None),
    "nothing": ("return None", "bad_prediction", None),
    "what has no JSON": ("return [1, object()]", "bad_prediction", 1),
    "a list within itself": ("x = [1, 2]; x[1] = x; return x", "bad_prediction", 1),
    "2 GB": ("return ['x' * 2**31, 1]", "out_of_memory", None),
    "40 MB": ("return ['x' * 40 * 2**20, 1]", "too_large", None),
    "a raise": ("raise ValueError('my secret is out')", "model_error", None),
    "an exit": ("raise SystemExit(3)", "model_error", None),
    "an interrupt": ("raise KeyboardInterrupt", "model_error", None),
    "a type that lies": (
        "class L(list):\n            def __len__(self): return 2\n        return L([1, 2, 3, float('nan')])",
        "not_finite",
        3,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "code", "index"), PREDICTS.values(), ids=PREDICTS.keys())
def test_a_prediction_that_cannot_be_given_is_told(body: str, code: str, index: int | None, zygote: Zygote) -> None:
    guard = "if rows[0] == [0]: return ['well', 'well']"
    replica = zygote.replica(f"class Model:\n    def predict(self, rows):\n        {guard}\n        {body}")
    error = replica.predict([1], [2])["error"]
    assert (error["code"], error.get("index")) == (code, index), error
    assert replica.predict([0], [0]) == {"predictions": ["well", "well"]}  # it lives on
    replica.stop()


# What ends the process while it predicts, and the words of the reason.
DEATHS = {
    "exits": ("import os; os._exit(3)", "the model ended its process with status 3"),
    "exits well": ("import os; os._exit(0)", "ended by itself"),
    "aborts": ("import os; os.abort()", "SIGABRT"),
    "crashes": ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    "kills itself": ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    "closes its files": ("import os; os.closerange(0, 300)", ""),
}


@pytest.mark.parametrize(("body", "words"), DEATHS.values(), ids=DEATHS.keys())
def test_a_process_that_dies_while_it_predicts_is_told_with_its_reason(body: str, words: str, zygote: Zygote) -> None:
    replica = zygote.replica(f"class Model:\n    def predict(self, rows): {body}")
    with pytest.raises(Ended):
        replica.predict([1])
    ended = replica.ended()
    assert words in ended["reason"]
    assert ended["pid"] == replica.pid
    assert not (zygote.run / replica.name).exists()


ENDLESS = {
    "loads": "while True: pass",
    "loads, deaf": "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except OSError: pass\nwhile True: pass",
    "predicts": "class Model:\n    def predict(self, rows):\n        while True: pass",
    "sleeps": "import time\nclass Model:\n    def predict(self, rows): time.sleep(10**6)",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_what_never_answers_is_killed_when_asked(source: str, zygote: Zygote) -> None:
    replica = zygote.replica(source)
    replica.say({"op": "predict", "instances": [[1]]})
    assert replica.silent(0.2)
    ended = replica.stop()
    assert (ended["signal"], ended["reason"]) == (9, "stopped as asked")


@pytest.mark.parametrize(
    "source",
    [
        "import builtins\nfor name in dir(builtins): setattr(builtins, name, None)",
        "import json, sys\nfor module in list(sys.modules.values()):\n    vars(module).clear()",
        "import gc\nfor thing in gc.get_objects():\n    if isinstance(thing, dict): thing.clear()",
    ],
    ids=["builtins", "modules", "all that can be reached"],
)
def test_a_model_that_breaks_its_interpreter_breaks_only_its_own(source: str, zygote: Zygote) -> None:
    replica = zygote.replica(f"{GOOD}\n{source}")
    replica.say({"op": "predict", "instances": [[1]]})
    replica.silent(0.5)
    assert replica.stop()["pid"] == replica.pid


def test_a_forged_answer_reaches_those_alone_who_asked_this_model(zygote: Zygote) -> None:
    body = """
        import os
        text = b'{"predictions":["forged"],"zygote":"dead"}'
        for fd in range(3, 300):
            try: os.write(fd, len(text).to_bytes(4, 'big') + text)
            except OSError: pass
        return [1]"""
    replica = zygote.replica(f"class Model:\n    def predict(self, rows):{body}")
    assert replica.predict([1])["predictions"] == ["forged"]
    replica.stop()


def test_what_a_model_prints_is_bounded(zygote: Zygote) -> None:
    body = "print('x' * 2**26, flush=True); return [len(rows)]"
    replica = zygote.replica(f"class Model:\n    def predict(self, rows): {body}")
    assert replica.predict([1]) == {"predictions": [1]}
    replica.stop()
    assert replica.log.stat().st_size < 2**20 + 100
    assert replica.log.read_text().endswith("what follows is dropped]\n")


def test_a_model_may_use_its_scratch_and_leaves_nothing(zygote: Zygote) -> None:
    source = (
        "import os, tempfile\nwith tempfile.TemporaryDirectory() as d: open(d + '/x', 'w').write('y' * 9)\n"
        f"open('kept', 'wb').write(bytes({FILE}))\n{GOOD}"
    )
    for _ in range(40):  # more than all of them could keep
        replica = zygote.replica(source)
        assert replica.predict([1]) == {"predictions": [1]}
        replica.stop()
    assert list(zygote.scratch.iterdir()) == []


def test_the_model_gets_no_environment_variable_of_the_platform(zygote: Zygote) -> None:
    replica = zygote.replica("import os\nclass Model:\n    def predict(self, rows): return [sorted(os.environ)]")
    assert {"HOME", "TMPDIR", "OMP_NUM_THREADS"} <= set(replica.predict([1])["predictions"][0])
    assert "PATH" not in replica.predict([1])["predictions"][0]
    replica.stop()


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_level_below_the_minimum_is_refused(zygote: Zygote) -> None:
    replica = zygote.replica(GOOD, minimum={"landlock": 99})
    assert replica.predict([1])["error"]["code"] == "walls_missing"
    replica.stop()
