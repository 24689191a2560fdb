"""The parser of the command line: says what is wrong with the input, and what may have been meant."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, Final, NoReturn

from greenscale_worker.cli import WRONG
from greenscale_worker.for_people import broken, fitted

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

AS_WRITTEN: Final = 80  # columns for which the texts of a help are broken

Commands = argparse._SubParsersAction  # noqa: SLF001  argparse has no public name for it


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Leaves texts as they are written, but breaks them anew, between words, on a narrower terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        edge = width + 2  # argparse takes two off
        if edge < AS_WRITTEN:
            text = "\n".join(broken(line, edge, " " * _margin(line)) for line in _joined(text))
        return super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """Parses as argparse does. The namespace's `parser` is the innermost one, that of the command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter} | options)
        self.set_defaults(parser=self)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all arguments. Unknown ones are reported by the command's parser, not by the whole program's."""
        found: argparse.Namespace
        found, left_over = self.parse_known_args(arguments)
        innermost: Parser = found.parser
        if left_over:
            innermost._refuse(left_over)
        if found.run is None and innermost is not self:
            innermost.error(f"an action is missing; expected: {', '.join(innermost._commands())}")
        return found

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse. An unknown first option is refused at once: what follows it would be misunderstood."""
        if args and _is_option(args[0]) and not self._knows(args[0]):
            self._refuse(args[:1])
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Write usage and error to stderr, and exit."""
        with suppress(OSError):
            sys.stderr.write(self.format_usage() + fitted(f"{self.prog}: error: {message}", sys.stderr) + "\n")
        self.exit(WRONG)

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        """Write the help. Raises OSError, for example on a full disk, which argparse would ignore."""
        (file or sys.stdout).write(self.format_help())

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            accepted = [str(choice) for choice in action.choices]
            expected = meant(str(value), accepted) or f"expected: {', '.join(accepted)}"
            raise argparse.ArgumentError(action, f"{value!r} is unknown; {expected}")

    def _refuse(self, arguments: Sequence[str]) -> NoReturn:
        option = next(filter(_is_option, arguments), None)
        if option is None:
            self.error(f"not expected: {' '.join(arguments)}; put words that belong together in quotes")
        self.error("; ".join(filter(None, (f"unknown option {option}", meant(option, self._options())))))

    def _commands(self) -> list[str]:
        return [name for action in self._actions if isinstance(action, Commands) for name in action.choices]

    def _options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]

    def _knows(self, option: str) -> bool:
        name = option.partition("=")[0]
        return any(known.startswith(name) if self.allow_abbrev else known == name for known in self._options())


def add_command(  # noqa: PLR0913  the parts of a help
    commands: "Commands[Any]", name: str, text: str, description: str, *, examples: str, codes: str, notes: str = ""
) -> argparse.ArgumentParser:
    """Register a command, or an action of one. Each help has its parts in one order: options, notes, examples, codes.

    `text` is its line in the list of commands. --env-file may also stand behind the command's name.
    """
    parts = [notes, f"examples:\n{_indented(examples)}", f"exit codes:\n{_indented(codes)}"]
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=description,
        epilog="\n\n".join(filter(None, parts)),
    )
    parser.add_argument("--env-file", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def _joined(text: str) -> list[str]:
    """Join the lines of each paragraph; indented lines, and a line that ends with a colon, stay as they are."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and line[:1].strip() and lines[-1][:1].strip() and not lines[-1].endswith(":"):
            lines[-1] += f" {line}"
        else:
            lines.append(line)
    return lines


def _margin(line: str) -> int:
    """Return the indent at which a broken line goes on: an indented line, further in."""
    indented = len(line) - len(line.lstrip())
    return indented + 4 if indented else 0


def _indented(text: str) -> str:
    return indent(text, "  ")


def meant(word: str, words: Iterable[str]) -> str:
    """Return `did you mean …?` with a similar word, empty if there is none."""
    close = get_close_matches(word.partition("=")[0], words, n=1)
    return f"did you mean {close[0]}?" if close else ""


def _is_option(argument: str) -> bool:
    """Return whether argparse takes an argument for an option: not a number below 0, nor a text with a blank."""
    return re.fullmatch(r"-[^\d\s.]\S*", argument) is not None and argument != "--"
