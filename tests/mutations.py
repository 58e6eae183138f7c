"""Would the tests notice? Breaks the method in a scratch copy, one sign or factor at a time.

    python tests/mutations.py                      about 5 minutes; prints which test caught each
    python tests/mutations.py hypergradient        only files whose name contains this

Each mutation replaces one piece of code, which must occur exactly once, and runs the tests named
beside it until the first failure. The exit status is 1 if a mutation survives.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

REPOSITORY = Path(__file__).parents[1]
TWO_RANKS = "tests/test_loop.py -k two_processes"

# file, code, what it becomes, tests
MUTATIONS = [
    ("hypergradient", "return -float(d.double()", "return float(d.double()", "tests/test_hypergradient.py"),
    ("hypergradient", "term - step_size * product(term)", "term + step_size * product(term)", "tests/test_hypergradient.py"),
    ("hypergradient", "return step_size * total", "return total", "tests/test_hypergradient.py"),
    ("hypergradient", "range(steps):\n        term", "range(steps - 1):\n        term", "tests/test_hypergradient.py"),
    ("hypergradient", "residual + (square / before)", "residual - (square / before)", "tests/test_hypergradient.py"),
    ("hypergradient", "+ C @ C.T / damping", "- C @ C.T / damping", "tests/test_hypergradient.py"),
    ("hypergradient", "product(v) + settings.damping * v", "product(v)", "tests/test_hypergradient.py"),
    ("hypergradient", "part.weight * part.loss(piece)", "part.loss(piece)", "tests/test_hypergradient.py"),
    ("hypergradient", "(v)[: parameters[0].numel()]", "(v)", "tests/test_hypergradient.py"),
    ("hypergradient", "with torch.random.fork_rng(devices=devices):", "if True:", "tests/test_loop.py -k eta_alpha_zero"),
    ("hypergradient", "retain_graph=keep, materialize_grads=True)\n    return distributed.average([flatten(gradients)])[0]",
     "retain_graph=keep, materialize_grads=True)\n    return flatten(gradients)", TWO_RANKS),
    ("distributed", "_SumAndTake.apply(gradients[0],", "_SumAndTake.apply(gradients[0].detach(),", TWO_RANKS),
    ("distributed", "_GatherRows.apply(gradients[0].contiguous())", "gradients[0]", TWO_RANKS),
    ("distributed", "        dist.all_reduce(total)\n", "", TWO_RANKS),
    ("run", "inner.matching - inner.classification", "inner.classification - inner.matching", "tests/test_loop.py -k small_step"),
    ("run", "self.losses(next(outer)).classification", "self.losses(batch).classification", "tests/test_loop.py -k small_step"),
    ("gradient_cache", "total = list(direct)", "total = [torch.zeros_like(value) for value in direct]", "tests/test_loop.py -k caching"),
    ("gradient_cache", "with undisturbed(model), torch.no_grad():", "with torch.no_grad():", "tests/test_loop.py -k caching"),
    ("gradient_cache", "distributed.average(total)", "total", TWO_RANKS),
    ("losses", "second.T / tau", "second.T * tau", "tests/test_losses.py"),
    ("losses", "F.cross_entropy(similarity.T, match)", "F.cross_entropy(similarity, match)", "tests/test_losses.py"),
    ("losses", "(to_middle[0] + to_middle[1]) / 2", "to_middle[0] + to_middle[1]", "tests/test_losses.py"),
    ("losses", "label_smoothing=uniform_labels", "label_smoothing=0.0", "tests/test_losses.py"),
    ("losses", "/ (2 * len(p))", "/ len(p)", "tests/test_losses.py"),
    ("methods/lfm", "(1 - alpha) * classification + alpha * matching", "alpha * classification + (1 - alpha) * matching",
     "tests/test_loop.py -k weighted_sum"),
    ("methods/lfm", "alpha * part.weight", "part.weight", "tests/test_methods.py"),
    ("methods/official", "2 * ((1 - alpha)", "((1 - alpha)", "tests/test_methods.py"),
    ("schedules", "1 - math.exp(-1 / t)", "math.exp(-1 / t)", "tests/test_schedules.py"),
    ("schedules", "3.2e-2, -6.5e-3, 1.5e-4]", "3.2e-2, 6.5e-3, 1.5e-4]", "tests/test_schedules.py"),
    ("schedules", "[1 - weight[0], *(-a", "[weight[0], *(a", "tests/test_schedules.py"),
    ("schedules", "[1 - product for product", "[product for product", "tests/test_schedules.py"),
    ("schedules", "(-1) ** (j - i) * math.comb(j, i)", "math.comb(j, i)", "tests/test_schedules.py"),
    ("schedules", "math.comb(i, j), math.comb(n, j)", "math.comb(i, j), math.comb(i, j)", "tests/test_schedules.py"),
    ("schedules", "alpha - rate * gradient", "alpha + rate * gradient", "tests/test_schedules.py"),
    ("schedules", "self.eta_alpha * 0.5 **", "self.eta_alpha * 2 **", "tests/test_schedules.py"),
    ("launch", "train = np.sort(shuffled[:held_out]), np.sort(shuffled[held_out:])", "train = np.sort(shuffled[:held_out]), train",
     "tests/test_launch.py"),
]  # fmt: skip


def main() -> None:
    """Tries the mutations, and prints a table."""
    console = Console(width=100, highlight=False)
    chosen = [one for one in MUTATIONS if all(word in one[0] for word in sys.argv[1:])]
    table = Table("file", "mutation", "caught by")
    survived = 0
    for file, code, becomes, tests in track(chosen, console=console, transient=True):
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "repository"
            shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(".git", "shards", "sweeps", "runs"))
            path = copy / "lfm_ray" / f"{file}.py"
            text = path.read_text(encoding="utf-8")
            if text.count(code) != 1:
                sys.exit(f"{path.name}: occurs {text.count(code)} times, not once: {code}")
            path.write_text(text.replace(code, becomes), encoding="utf-8")
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split(" ", 2)],
                cwd=copy, env={"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin", "HOME": scratch},
                capture_output=True, text=True,
            )  # fmt: skip
        failed = re.search(r"^FAILED \S+::(\S+)", done.stdout, flags=re.MULTILINE)
        survived += not failed
        table.add_row(
            file, f"{one_line(code)}  ->  {one_line(becomes)}", failed[1] if failed else "[bold red]SURVIVED[/]"
        )
    console.print(table)
    console.print(f"{len(chosen) - survived} of {len(chosen)} mutations are caught")
    sys.exit(1 if survived else 0)


def one_line(code: str) -> str:
    """Code for a table's cell."""
    return " ".join(code.split()).replace("[", r"\[")[:70]


if __name__ == "__main__":
    main()
