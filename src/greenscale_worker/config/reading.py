"""Reads the settings: from the environment, else from `.env`, else the default; secrets also from files."""

import re
import stat
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from greenscale_worker.config.catalogue import Setting, catalogue
from greenscale_worker.config.rules import masked
from greenscale_worker.config.settings import Notice, Settings
from greenscale_worker.errors import ConfigError

OURS: Final = "GREENSCALE_"
SHARED_PREFIXES: Final = ("REDIS_", "NEYSA_", "OPENAI_")  # other programs use these prefixes, too
MISTYPED: Final = 0.9  # of difflib's ratio: finds two swapped letters, but not the names of other programs
FILE: Final = "_FILE"
LARGEST_FILE: Final = 64 * 1024
LONGEST_SHOWN: Final = 80
MOST_NOTICES: Final = 20
IMPORTED: Final = ("backend", "queue")  # settings whose value may be a module to import
INJECTED: Final = re.compile(r"(tcp|udp|sctp)://")  # what Kubernetes sets NAME_PORT to for a Service called NAME
# What Kubernetes sets beside NAME_PORT: NAME_SERVICE_HOST, NAME_SERVICE_PORT…, NAME_PORT_6379_TCP…
OF_SERVICE: Final = re.compile(r".+_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_.+)?)")

Found = tuple[str | None, str, str | None]  # a value, None if left empty; the variable; the file it names


def load(environ: Mapping[str, str], dotenv_path: Path | None = None, *, named: bool = False) -> Settings:
    """Read and check all settings. The environment takes precedence over the file at `dotenv_path`, if there is one.

    `named`: the user named that file, so it must exist, and is trusted like the environment. A file that merely lies
    in the working directory may have come with a folder of unknown origin: it may not choose code to run, nor a file
    to read a secret from, and its fields are in `Settings.unnamed`.

    Raises ConfigError with one line that names the variable, what is wrong and what is accepted.
    """
    sources = {"environment": environ}
    notices: list[Notice] = []
    if dotenv_path is not None and (text := _read_dotenv(dotenv_path, named=named)) is not None:
        sources[str(dotenv_path)] = _variables(text, dotenv_path, notices)
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    unnamed: set[str] = set()
    files: dict[str, str] = {}
    for setting in catalogue():
        for source, variables in sources.items():
            loose = variables is not environ and not named
            if loose and setting.secret and variables.get(setting.name + FILE):
                raise _untrusted(
                    f"{setting.name}{FILE} in {source} would have a file read and its content sent", source
                )
            if (found := _find(setting, variables)) is None:
                continue
            value, name, file = found
            if value is not None:
                if loose and setting.field in IMPORTED and ":" in value:
                    raise _untrusted(f"{name} in {source} would run code: {_shown(value)}", source)
                values[setting.name] = value
                if file is not None:
                    files[setting.field] = file
                origins[setting.field] = source if name == setting.name else f"{name} in {source}"
                unnamed |= {setting.field} if loose else set()
            break
    notices += islice(chain.from_iterable(map(_notices, sources.values())), MOST_NOTICES)
    try:
        return Settings.model_validate(
            {**values, "origins": origins, "files": files, "unnamed": unnamed, "notices": notices}
        )
    except ValidationError as error:
        raise _explain(error, values, origins) from None


def _untrusted(what: str, path: str) -> ConfigError:
    return ConfigError(
        f"{what}, and nobody has named that file; expected: the variable in the environment, or, where you trust"
        f" the file, the option --env-file {path}"
    )


def _read_dotenv(path: Path, *, named: bool) -> str | None:
    """Read the file. Return None if there is none and the user has not named it."""
    try:
        if not named and not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise ConfigError(f"{path} is no regular file; expected: a file of NAME=value lines, or --env-file {path}")
        with path.open("rb") as file:
            text = file.read(LARGEST_FILE + 1)
        if len(text) > LARGEST_FILE:
            raise ConfigError(f"{path} is too large; expected: NAME=value lines, at most {LARGEST_FILE} bytes of them")
        return text.decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, ValueError) as error:
        if not named and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return None
        raise ConfigError(f"{_shown(path)}: {_reason(error)}; a file of NAME=value lines is expected") from None


def _variables(text: str, path: Path, notices: list[Notice]) -> dict[str, str]:
    try:
        from dotenv.parser import parse_stream  # noqa: PLC0415  only needed with such a file
    except ImportError:
        raise ConfigError(
            f"{path} is there, but python-dotenv, which reads it, is not installed; expected:"
            " pip install python-dotenv, or the variables in the environment and no such file"
        ) from None

    # Without interpolation: a `$` in a password is a `$`, and os.environ is not read.
    found: dict[str, str] = {}
    for binding in parse_stream(StringIO(text)):
        is_bare = binding.key is not None and binding.value is None
        if (binding.error or is_bare) and not notices:
            notices.append(Notice(str(path), f"line {binding.original.line} is not NAME=value; it is left out"))
        if binding.key is not None and binding.value is not None:
            found[binding.key] = binding.value
    return found


def _find(setting: Setting, variables: Mapping[str, str]) -> Found | None:
    """Look for one setting in one source; the second of two spellings takes precedence, as in urllib."""
    value, name = None, setting.name
    for name in reversed(setting.names):
        if name in variables and not _is_injected(name, variables[name]):
            value = variables[name]
            break
    given = value is not None and (bool(value.strip()) or setting.may_be_empty)
    in_file, file = setting.name + FILE, None
    if setting.secret and (path := variables.get(in_file)):
        if given:
            raise ConfigError(f"{name} and {in_file} contradict each other; expected: one of the two")
        value, name, file = _read_secret(in_file, Path(path)), in_file, path
        given = bool(value) or setting.may_be_empty
    if value is None:
        return None
    # A Secret made with `echo` ends with a line feed, which is no part of it, in a file or not.
    return (value.rstrip("\r\n") if setting.secret else value.strip()) if given else None, name, file


def _read_secret(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            secret = file.read(LARGEST_FILE + 1)
        if len(secret) > LARGEST_FILE:
            raise ConfigError(f"{name}: {_shown(path)} is too large; at most {LARGEST_FILE} bytes are expected")
        return secret.decode().rstrip("\r\n")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name}: {_shown(path)}: {_reason(error)}; a file that holds the secret is expected"
        ) from None


def _shown(text: str | Path) -> str:
    """Return a text of unknown origin as one line, cut to LONGEST_SHOWN."""
    text = str(text)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else "no file has such a name"


def _is_injected(name: str, value: str) -> bool:
    return name.endswith("_PORT") and INJECTED.match(value) is not None


def _is_of_service(name: str, value: str) -> bool:
    return _is_injected(name, value) or OF_SERVICE.fullmatch(name) is not None


def _notices(variables: Mapping[str, str]) -> Iterator[Notice]:
    known = [name for setting in catalogue() for name in setting.names]
    known += [setting.name + FILE for setting in catalogue() if setting.secret]
    for name, value in variables.items():
        if name in known and _is_injected(name, value):
            yield Notice(name, "not taken for a setting: Kubernetes sets it like this for a Service of that name")
        elif name.startswith(OURS) and name not in known:
            nearest = get_close_matches(name[:LONGEST_SHOWN], known, n=1, cutoff=0)[0]
            yield Notice(_shown(name), f"there is no such setting; the nearest is {nearest}")
        elif name not in known and name.startswith(SHARED_PREFIXES) and not _is_of_service(name, value):
            for near in get_close_matches(name[:LONGEST_SHOWN], known, n=1, cutoff=MISTYPED):
                yield Notice(_shown(name), f"there is no such setting; did you mean {near}?")


def _explain(error: ValidationError, values: Mapping[str, str], origins: Mapping[str, str]) -> ConfigError:
    """Make an error of the first fault, in one line, without the value of a secret."""
    wrong = error.errors(include_url=False, include_context=False)[0]["loc"][0]
    setting = next(setting for setting in catalogue() if setting.name == wrong)
    value = "the value" if setting.secret else repr(masked(values[setting.name]))
    value = value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}…'"
    origin = origins[setting.field]
    where = "" if origin == "environment" else f" (from {origin})"
    return ConfigError(f"{setting.name}: {value} is not accepted{where}; expected: {setting.accepts}")
