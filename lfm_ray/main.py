"""Finds training strategies for imbalanced multimodal classification.

lfm-ray COMMAND --help            what a command does, with examples
python -m lfm_ray.COMMAND         the same programs

"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from lfm_ray.cli import began, run
from lfm_ray.errors import UserError

COMMANDS = {
    "prepare": "raw media and labels -> shards",
    "tune": "search a training strategy",
    "train": "train one configuration, on one worker or several",
    "confirm": "train what sweeps found with other seeds, and measure it on the test split",
    "report": "what sweeps have found, on one page",
    "export": "a trained model as a folder that classifies raw files",
    "sweeps": "lists sweeps, and deletes them or parts of them",
    "reproduce": "a table or figure of the paper, for your data",
}
PACKAGES = ("report", "export", "reproduce")  # whose command is their __main__


def main(program: str = "lfm-ray") -> None:
    """The command `lfm-ray`: runs the command that its first word names. program: what was typed before that."""
    run(lambda: _dispatch(program))


def command(name: str) -> Callable[[], None]:
    """What runs a command, on `sys.argv`."""
    module = f"lfm_ray.{name}.__main__" if name in PACKAGES else f"lfm_ray.{name}"
    found: Callable[[], None] = import_module(module).main
    return found


def _dispatch(program: str) -> None:
    first = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if first in ("-h", "--help"):
        print(f"usage: {program} COMMAND ...\n\n{(__doc__ or '').strip()}\n\ncommands:")
        for name, what in COMMANDS.items():
            print(f"  {name:<10} {what}")
    elif first == "--version":
        from importlib.metadata import version  # as long to import as all else that a parser needs

        print(f"lfm_ray {version('lfm_ray')}")
    elif first not in COMMANDS:
        raise UserError(f"{first}: there is no such command; {program} has {', '.join(COMMANDS)}")
    else:
        began(program)
        sys.argv = [f"{program} {first}", *sys.argv[2:]]
        command(first)()
