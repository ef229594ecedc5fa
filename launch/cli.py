"""How every program starts and ends: strict arguments, errors of one line, exit codes.

A program calls `cli.run(main)` as its last line. The exit code is 0 after success and `--help`, 1
after an error, or what `main` returns.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags

# What the library raises for a user's mistakes; anything else is a defect and shows its traceback.
ERRORS = (ValueError, ImportError, RuntimeError, OSError)
# What reading a config file or one of its keys on the command line may raise as well.
_FLAG_ERRORS = (*ERRORS, AttributeError, KeyError, TypeError)
_HELP = {f"{dash}{name}" for dash in ("-", "--") for name in ("help", "helpshort", "helpfull", "?")}
flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def run(main: Callable[[list[str]], Any]) -> None:
    """Parses the flags, runs a program and ends the process.

    Args:
        main: The program, as for `absl.app`; what it returns is the exit code.
    """
    for module, shared in flags.FLAGS.flags_by_module_dict().items():
        for flag in shared if module.startswith("launch.") else ():  # for --help
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    expected = _FLAG_ERRORS

    def strictly(argv: list[str]) -> Any:
        nonlocal expected
        expected = ERRORS  # all flags are read
        if len(argv) > 1:
            raise ValueError(
                f"unexpected argument {argv[1]!r}: this program takes flags only, and a flag's "
                "value follows an equals sign, as in --name=value"
            )
        return main(argv)

    try:
        app.run(strictly, flags_parser=_parse)
    except SystemExit as end:
        # absl ends with 1 after showing help that was asked for.
        raise SystemExit(0 if _HELP & set(sys.argv[1:]) else end.code) from None
    except Exception as error:
        if not isinstance(error, expected) or "--debug" in sys.argv:
            raise
        _say_last(f"error: {_one_line(error)}\n")
        raise SystemExit(1) from None


def _parse(arguments: list[str]) -> list[str]:
    """Parses the flags; the error of a config file is its last line."""
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        text = str(error).strip()
        if "Traceback" in text and "--debug" not in arguments:
            text = text.splitlines()[-1].strip()
        raise ValueError(f"{text}; --help lists the flags") from error


def _say_last(message: str) -> None:
    """Prints a message and drops what the threads of libraries print while the process ends."""
    sys.stderr.flush()
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.write(stderr, message.encode())


def _one_line(error: BaseException) -> str:
    """The error's message; where it has none, its type."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    # The text of a KeyError is quoted, that of an OSError made of its parts.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(text).split()) or type(error).__name__
