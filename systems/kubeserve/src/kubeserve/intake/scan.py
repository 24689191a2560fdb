"""Tells what a model names and would call. This informs its owner; what protects is the sandbox.

No scanner of pickles is a boundary. What it is sure of is refused, for nobody means well who calls `os.system`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kubeserve.domain import Format
from kubeserve.intake.identify import Identity
from kubeserve.intake.onnx import onnx_domains
from kubeserve.intake.pickles import Findings, read_pickle
from kubeserve.intake.skops import skops_types
from kubeserve.intake.streams import opened
from kubeserve.intake.verdicts import RejectedError

CALLS: Final = frozenset({"DANGEROUS_CALL"})  # the scanner's rule for a call of what runs programs or code
OVERT: Final = frozenset({  # no model needs them, and every gadget does
    "os", "nt", "posix", "subprocess", "_posixsubprocess", "multiprocessing", "pty", "commands", "platform", "sys",
    "socket", "_socket", "ssl", "asyncio", "urllib", "http", "requests", "smtplib", "ftplib", "webbrowser",
    "ctypes", "_ctypes", "importlib", "runpy", "code", "pip", "shutil",
})  # fmt: skip
OVERT_BUILTINS: Final = frozenset({"eval", "exec", "compile", "open", "__import__", "breakpoint", "input"})
KNOWN: Final = frozenset({
    "sklearn", "numpy", "scipy", "pandas", "joblib", "skops", "lightgbm", "xgboost", "catboost", "imblearn", "ai",
    "builtins", "__builtin__", "collections", "copyreg", "copy_reg", "_codecs", "datetime", "functools", "operator",
})  # fmt: skip
HARMLESS_BUILTINS: Final = frozenset({
    "object", "list", "dict", "tuple", "set", "frozenset", "int", "float", "complex", "bool", "str", "bytes",
    "bytearray", "slice", "range", "type",
})  # fmt: skip
BY_VALUE: Final = "cloudpickle"  # writes classes and functions with the model: its calls are code, as the owner meant
OF_THE_SCRIPT: Final = "__main__"  # the module of what the script that saved the model defined: here it is another one
MOST_NAMES: Final = 200
SCAN_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True)
class Imports:
    """The names in order of appearance, those that are not `known` here, and why the reading stopped early, if so."""

    names: tuple[str, ...]
    unknown: tuple[str, ...]
    incomplete: str = ""


def scan(path: Path, identity: Identity, seconds: float) -> Imports:
    """Tell what the file names.

    Raises RejectedError if it is damaged, overtly malicious, or needs its owner's script.
    """
    if identity.format is Format.ONNX:
        return _imports(onnx_domains(path))
    if identity.format is Format.SKOPS:
        return _imports(skops_types(path))
    if identity.compression == "lz4":
        return Imports((), (), "not looked into: lz4 is unpacked in the environment of the model alone")
    with opened(path, identity.compression) as source:
        findings = read_pickle(source, seconds, joblib=identity.format is Format.JOBLIB)
    _refuse_calls(findings)
    return _imports(tuple(findings.globals), findings.incomplete)


def _refuse_calls(findings: Findings) -> None:
    from modelaudit_picklescan import ScanOptions, Severity, scan_bytes  # noqa: PLC0415 - 0.3 s, for pickles alone

    options = ScanOptions(timeout_s=SCAN_SECONDS)
    for program in findings.programs:
        for finding in scan_bytes(program, options=options, enrich_call_graph=False).findings:
            module = str(finding.details.get("module", ""))
            if module.partition(".")[0] in {BY_VALUE, OF_THE_SCRIPT}:
                continue
            if finding.severity is Severity.CRITICAL and finding.rule_code in CALLS:
                raise RejectedError(f"malicious: {finding.message[:200]}")


def _imports(names: tuple[str, ...], incomplete: str = "") -> Imports:
    for name in names:
        if _is_overt(name):
            raise RejectedError(f"malicious: it names {name[:200]}, which no model needs")
    for name in names:
        module, _, own = name.partition(".")
        if module == OF_THE_SCRIPT:
            raise RejectedError(
                f"its {own[:200]} is defined in your script, which is not there; "
                "save the model with cloudpickle, which brings it along"
            )
    unknown = tuple(name[:200] for name in names if not _is_known(name))
    return Imports(tuple(name[:200] for name in names[:MOST_NAMES]), unknown[:MOST_NAMES], incomplete)


def _is_overt(name: str) -> bool:
    module, _, attribute = name.partition(".")
    if module in {"builtins", "__builtin__"}:
        return attribute in OVERT_BUILTINS
    return module in OVERT


def _is_known(name: str) -> bool:
    module, _, attribute = name.partition(".")
    if module in {"builtins", "__builtin__"}:
        return attribute in HARMLESS_BUILTINS
    return module in KNOWN
