"""Reads the settings: from the environment, else from `.env`, else there is a default; secrets also from files."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from greenscale_worker.config.catalogue import Setting, catalogue
from greenscale_worker.config.rules import masked
from greenscale_worker.config.settings import Notice, Settings
from greenscale_worker.errors import ConfigError

OURS: Final = "GREENSCALE_"
FILE: Final = "_FILE"
LARGEST_SECRET: Final = 64 * 1024
LONGEST_SHOWN: Final = 80
INJECTED: Final = re.compile(r"(tcp|udp|sctp)://")  # what Kubernetes sets NAME_PORT to for a Service called NAME

Found = tuple[str | None, str, str | None]  # a value, None where it was left empty; the variable; the file it names


def load(environ: Mapping[str, str], dotenv_path: Path | None = None) -> Settings:
    """Read and check all settings. The environment goes before the file at `dotenv_path`, where there is one.

    Raises ConfigError with one line that names the variable, what is wrong and what is accepted.
    """
    sources = {"environment": environ}
    if dotenv_path is not None and dotenv_path.exists():
        sources[str(dotenv_path)] = _read_dotenv(dotenv_path)
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    files: dict[str, str] = {}
    for setting in catalogue():
        for source, variables in sources.items():
            if (found := _find(setting, variables)) is None:
                continue
            value, name, file = found
            if value is not None:
                values[setting.name] = value
                if file is not None:
                    files[setting.field] = file
                origins[setting.field] = source if name == setting.name else f"{name} in {source}"
            break
    notices = [notice for variables in sources.values() for notice in _notices(variables)]
    try:
        return Settings.model_validate({**values, "origins": origins, "files": files, "notices": notices})
    except ValidationError as error:
        raise _explain(error, values, origins) from None


def _read_dotenv(path: Path) -> dict[str, str]:
    from dotenv import dotenv_values  # noqa: PLC0415  only who has such a file pays for it

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {_reason(error)}; a file of NAME=value lines is expected") from None
    # Without interpolation: a `$` in a password is a `$`, and only `environ` stands for the environment.
    return {
        name: value
        for name, value in dotenv_values(stream=StringIO(text), interpolate=False).items()
        if value is not None
    }


def _find(setting: Setting, variables: Mapping[str, str]) -> Found | None:
    """Look for one setting in one source; of two spellings the second goes before the first, as in urllib."""
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
    # A Secret made with `echo` ends with a line feed; that is no part of it, in a file or not.
    return (value.rstrip("\r\n") if setting.secret else value.strip()) if given else None, name, file


def _read_secret(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            secret = file.read(LARGEST_SECRET + 1)
        if len(secret) > LARGEST_SECRET:
            raise ConfigError(f"{name}: {path} is too large; at most {LARGEST_SECRET} bytes are expected")
        return secret.decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: {path}: {_reason(error)}; a file that holds the secret is expected") from None


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error.strerror)


def _is_injected(name: str, value: str) -> bool:
    return name.endswith("_PORT") and INJECTED.match(value) is not None


def _notices(variables: Mapping[str, str]) -> Iterator[Notice]:
    known = [name for setting in catalogue() for name in setting.names]
    known += [setting.name + FILE for setting in catalogue() if setting.secret]
    for name, value in variables.items():
        if name in known and _is_injected(name, value):
            yield Notice(name, "not taken for a setting: Kubernetes sets it like this for a Service of that name")
        elif name.startswith(OURS) and name not in known:
            nearest = get_close_matches(name, known, n=1, cutoff=0)[0]
            yield Notice(name, f"there is no such setting; the nearest is {nearest}")


def _explain(error: ValidationError, values: Mapping[str, str], origins: Mapping[str, str]) -> ConfigError:
    """Put the first fault into one line, without the value of a secret."""
    wrong = error.errors(include_url=False, include_context=False)[0]["loc"][0]
    setting = next(setting for setting in catalogue() if setting.name == wrong)
    value = "the value" if setting.secret else repr(masked(values[setting.name]))
    value = value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}…'"
    origin = origins[setting.field]
    where = "" if origin == "environment" else f" (from {origin})"
    return ConfigError(f"{setting.name}: {value} is not accepted{where}; expected: {setting.accepts}")
