"""Would the tests notice a wrong formula? The share of mutants that they notice, and the survivors.

    OMP_NUM_THREADS=1 mutmut run --max-children 2     breaks the formulas in a copy, mutants/, one spot at a time
    python benchmarks/mutation_score.py               prints the survivors and the table of shares

`mutmut run` goes on where it was stopped. `mutmut run "lfm_ray.methods.losses*"` tries one file's mutants again,
after a change of the tests. setup.cfg says what is mutated and which tests are run. The exit status is 1
below 90 %.
"""

from __future__ import annotations

import ast
import json
import sys
from difflib import unified_diff
from pathlib import Path

from progress import begin
from rich.console import Console
from rich.table import Table

MUTANTS = Path(__file__).parents[1] / "mutants"
# Exit statuses: a test has failed, or run for too long. 255, an error of mutmut's own, is not among them.
NOTICED = {1, 3, 24, -24, 36, 152}
WITHOUT_EFFECT = {"strict", "device"}  # arguments that no result depends on: a check of lengths, and the only device


def lines(function: ast.FunctionDef) -> list[str]:
    """The code of a function, without its name and the arguments without effect."""
    copy: ast.FunctionDef = ast.parse(ast.unparse(function)).body[0]  # type: ignore[assignment]
    copy.name = "f"
    for node in ast.walk(copy):
        if isinstance(node, ast.Call):
            node.keywords = [one for one in node.keywords if one.arg not in WITHOUT_EFFECT]
    return ast.unparse(copy).splitlines()


def main() -> None:
    """Prints survivors and shares, of the mutants tried so far."""
    begin("seconds, once mutmut has run")
    console, table = Console(width=110, highlight=False), Table("file", "mutants", "noticed", "share", "not yet tried")
    rows: dict[str, list[str | None]] = {}
    for path in sorted(MUTANTS.rglob("*.meta")):
        tree, results = ast.parse(path.with_suffix("").read_text(encoding="utf-8")), []
        functions = {node.name: lines(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        for name, status in json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"].items():
            mutant = name.rpartition(".")[2]
            before = functions[mutant.rpartition("__mutmut_")[0] + "__mutmut_orig"]
            if changes := list(unified_diff(before, functions[mutant], n=0, lineterm=""))[3:]:
                results.append(None if status is None else "noticed" if status in NOTICED else "survived")
                if results[-1] == "survived":
                    console.print(f"{name} (exit status {status})", *changes, sep="\n", markup=False)
        rows[path.relative_to(MUTANTS).with_suffix("").as_posix()] = results
    rows["all"] = [one for results in rows.values() for one in results]
    for file, results in rows.items():
        tried, noticed = sum(one is not None for one in results), results.count("noticed")
        table.add_row(file, *map(str, (tried, noticed)), f"{noticed / max(tried, 1):.1%}", str(len(results) - tried))
    console.print(table)
    sys.exit(rows["all"].count("noticed") < 0.9 * len(rows["all"]))


if __name__ == "__main__":
    main()
