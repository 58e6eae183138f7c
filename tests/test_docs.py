"""README and docs: links that resolve, commands that parse, a README of one sitting."""

from __future__ import annotations

import argparse
import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("data/demo/*.md")])
HEADS = sorted(REPOSITORY.glob("search_spaces/*.yaml"))
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:lfm-ray |python -m lfm_ray\.)(?P<words>[a-z]+ .*)")
LEFT_OUT = re.compile(r"\.\.\.|--help")


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(REPOSITORY)) for path in paths]


def anchors(page: Path) -> set[str]:
    """Those of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def code_of(text: str) -> list[str]:
    """The lines of indented and fenced code, and of the comment at the head of a YAML file."""
    text = re.sub(r"\\\n#?\s*", "", text)
    fenced = [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    lines = [*fenced, *re.findall(r"^(?: {4}|# {2,})\s*(\S.*)$", text, re.M)]
    return [re.split(r"\s{3,}", line)[0] for line in lines]  # what follows several spaces explains it


def inline_of(text: str) -> list[str]:
    """What stands between backticks within the prose."""
    prose = re.sub(r"^ {4}[^\n]*$|^```.*?^```", "", text, flags=re.M | re.S)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def commands(pieces: list[str]) -> list[str]:
    found = [COMMAND.fullmatch(piece) for piece in pieces]
    return list(dict.fromkeys(one["words"] for one in found if one and not LEFT_OUT.search(one["words"])))


class Understood(Exception):
    """The command line was parsed; nothing is done."""


def parse(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a command read its command line, and no more."""
    name = f"lfm_ray.{words[0]}"
    found = find_spec(name)
    assert found, f"there is no command {words[0]}"
    module = import_module(f"{name}.__main__" if found.submodule_search_locations else name)
    parse_args = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser) -> argparse.Namespace:
        parse_args(self)
        raise Understood

    monkeypatch.setattr("sys.argv", words)
    if hasattr(module, "arguments"):
        module.arguments()  # with its checks of what goes together
        return
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    with pytest.raises(Understood):
        module.main()


TEXTS = [page.read_text(encoding="utf-8") for page in PAGES]
WHOLE = commands([code for path in [*PAGES, *HEADS] for code in code_of(path.read_text(encoding="utf-8"))])
MENTIONED = commands([code for text in TEXTS for code in inline_of(text)])


@pytest.mark.parametrize("page", names(PAGES))
def test_every_link_resolves(page: str) -> None:
    for link in LINK.findall((REPOSITORY / page).read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent / file if file else REPOSITORY / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"


def test_the_readme_is_short() -> None:
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(len(line) for line in lines if not line.startswith(("|", "!"))) <= 120


@pytest.mark.parametrize("command", WHOLE)
def test_a_command_in_a_code_block_can_be_given(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse(shlex.split(command, comments=True), monkeypatch)


@pytest.mark.parametrize("command", MENTIONED)
def test_the_flags_of_a_command_in_the_prose_exist(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *words = command.split()
    with pytest.raises(SystemExit):
        parse([name, "--help"], monkeypatch)
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} <= known


def test_commands_were_found() -> None:
    assert len(WHOLE) > 40
    assert len(MENTIONED) > 3


def test_the_citation_names_the_software_and_the_paper() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version"} <= set(citation)
    assert "Modality Gap" in citation["references"][0]["title"]


def test_the_page_of_the_methods_is_that_of_their_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "docs")
    written = (REPOSITORY / "docs/methods.md").read_text(encoding="utf-8")
    made: str = import_module("make_methods").page()
    assert made == written, "python docs/make_methods.py writes it anew"
