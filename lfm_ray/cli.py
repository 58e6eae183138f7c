"""What the commands share: their parsers, `--set`, and errors of one line.

The commands' parsers import this file. It imports little, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from lfm_ray import own_parts, trust
from lfm_ray.errors import TrainingFailed, UserError
from lfm_ray.interruption import deaf, status_of, terminable
from lfm_ray.storage import working_folder

PATH_ERRORS = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)  # what is wrong with a path that was given
# Storage that is full, forbidden or away. Other errors of this kind are defects, and keep their traceback.
# An object store gives no number.
STORAGE_ERRORS = (None, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


LONGEST_SHOWN = 200  # characters of a path
MODULE = "python -m lfm_ray."  # how a command begins that is run as a module
_began = MODULE  # how the command that is running began; lfm_ray.main says where it was another way


def began(words: str) -> None:
    """Notes that the commands are called by `words COMMAND`, such as `lfm-ray tune`."""
    global _began
    _began = f"{words} "


def typed(command: str) -> str:
    """How a command is called, in the form in which this one was: `lfm-ray train`, or `python -m lfm_ray.train`."""
    return f"{_began}{command}"


def parser(command: str, doc: str, settings: bool = True) -> argparse.ArgumentParser:
    """The argument parser of a command; its help is the module's docstring, in the form in which it was called.

    settings: whether the command takes `--set`.
    """
    result = argparse.ArgumentParser(
        prog=typed(command),
        description=doc.replace(MODULE, _began),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("--trust", action=Trust, nargs=0, help="run the parts of other packages that stored files name")
    if settings:
        result.add_argument(
            "--set", metavar="SETTING=VALUE", action="append", default=[], dest="overrides",
            help="override any setting, such as optimizer.learning_rate=0.01; repeatable",
        )  # fmt: skip
    return result


class Trust(argparse.Action):
    """The flag --trust."""

    def __call__(self, *_: object) -> None:
        """It has been given."""
        trust.ask_for_everything()


def run(main: Callable[[], None]) -> None:
    """Runs a command; errors that the user can put right become one line and an exit status.

    Of a command that is stopped by a signal the status is 128 + the signal: 130 after Ctrl-C, 143 after SIGTERM.
    """
    try:
        with terminable():
            try:
                main()
            finally:
                deaf()  # what it does is done; its status tells that, whatever comes while the process ends
    except UserError as error:
        _stop(str(error), 2)
    except TrainingFailed as error:
        _stop(str(error), 1)
    except Exception as error:
        if said := own_parts.blamed(error):
            _stop(said, 2)
        if wrong := _wrong_path(error):
            _stop(wrong, 2)
        if not isinstance(error, OSError) or error.errno not in STORAGE_ERRORS:
            raise
        reason = error.strerror or str(error).splitlines()[0]
        _stop(f"{error.filename or 'storage'}: {reason}; what had been written before is kept", 1)
    except (SystemExit, GeneratorExit) as error:
        if said := own_parts.blamed(error):  # or a part that calls sys.exit() would end the command as if it were done
            _stop(said, 2)
        raise
    except KeyboardInterrupt as error:
        deaf()
        _say(str(error) or "interrupted; the same command goes on where it was")
        # Threads of Ray may still run, and the interpreter would end with a segmentation fault now and then.
        os._exit(status_of(error))


def _wrong_path(error: Exception) -> str | None:
    """What is wrong with a path that the user gave, or that a file names; None: the error is about something else."""
    if isinstance(error, OSError) and error.errno in PATH_ERRORS:
        return f"{str(error.filename)[:LONGEST_SHOWN]}: is no path that can be used: {error.strerror}"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # of pathlib, until Python 3.12
        link = str(error).partition("'")[2].rstrip("'")
        return f"{link}: is a link that leads back to itself"
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        return f"{error.object[:LONGEST_SHOWN]}: is not a text in UTF-8; rename what is called so"
    return None


def command_line(command: str) -> str:
    """The command that is running, as it can be typed again."""
    return " ".join([typed(command), *map(shlex.quote, sys.argv[1:])])


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


def gpu_count(text: str) -> float:
    """A number of GPUs as Ray grants them: a whole one, or a share of one."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (0 <= value <= 1 or (value > 0 and value.is_integer())):
        raise argparse.ArgumentTypeError(f"must be a whole number, or a share of one GPU such as 0.5, not {text!r}")
    return value


def seconds(text: str) -> float:
    """`90`, `90s`, `30m`, `2h` -> seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not match or not float(match[1]):
        raise argparse.ArgumentTypeError(f"must be a time such as 90s, 30m or 2h, not {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def storage_folder(text: str) -> Path:
    """A folder of this machine or a shared one, or the folder that stands for a URI (`lfm_ray.storage`)."""
    try:
        return working_folder(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _stop(message: str, status: int) -> None:
    deaf()
    _say(message)
    sys.exit(status)


def _say(message: str) -> None:
    from rich.text import Text

    from lfm_ray.console import PlainConsole
    from lfm_ray.visible import in_one_line

    text = Text.assemble(("error:", "bold red"), f" {in_one_line(message)}")
    PlainConsole(stderr=True, highlight=False, soft_wrap=True).print(text)
    sys.stdout.flush()
