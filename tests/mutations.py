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
HYPERGRADIENT = "tests/test_hypergradient.py"
LOSSES = "tests/test_losses.py"
SCHEDULES = "tests/test_schedules.py"
METHODS = "tests/test_methods.py"
LAUNCH = "tests/test_launch.py"
TWO_RANKS = "tests/test_loop.py -k two_processes"
THROUGH_STEP = "tests/test_loop.py -k through_the_step"
CACHING = "tests/test_loop.py -k caching"
MASKS = "tests/test_loop.py -k dropout_masks"
UNTOUCHED = "tests/test_loop.py -k eta_alpha_zero"
WEIGHTED = "tests/test_loop.py -k weighted_sum"
INPUTS = "tests/datasets/test_inputs.py"
SHARDS = "tests/datasets/test_shards.py"
BUILD = "tests/datasets/test_build.py -k killed"
FUSION = "tests/models/test_fusion.py -k logits_are"
ENCODERS = "tests/models/test_encoders.py"
COMPUTE = "tests/test_compute.py"
GRADCAM = "tests/report/test_gradcam.py"
PROFILE = "tests/test_profile.py"

OPTIMIZER = "tests/test_optimizer.py"
METRICS = "tests/test_metrics.py"
STATISTICS = "tests/test_statistics.py"
CONFIRMATION = "tests/report/test_confirmation.py"
POPULATION = "tests/search/test_population.py"
EXPORT = "tests/test_export.py"

# file of lfm_ray, tests, code, what it becomes
MUTATIONS = [
    ("hypergradient", HYPERGRADIENT,
     "return -float(d.double()",
     "return float(d.double()"),
    ("hypergradient", HYPERGRADIENT,
     "term - step_size * product(term)",
     "term + step_size * product(term)"),
    ("hypergradient", HYPERGRADIENT,
     "return step_size * total",
     "return total"),
    ("hypergradient", HYPERGRADIENT,
     "range(steps):\n        term",
     "range(steps - 1):\n        term"),
    ("hypergradient", HYPERGRADIENT,
     "residual + (square / before)",
     "residual - (square / before)"),
    ("hypergradient", HYPERGRADIENT,
     "+ C @ C.T / damping",
     "- C @ C.T / damping"),
    ("hypergradient", HYPERGRADIENT,
     "product(v) + settings.damping * v",
     "product(v)"),
    ("hypergradient", HYPERGRADIENT,
     "part.weight * loss for",
     "loss for"),
    ("hypergradient", HYPERGRADIENT,
     "(v)[: parameters[0].numel()]",
     "(v)"),
    ("hypergradient", UNTOUCHED,
     "with torch.random.fork_rng(devices=devices):",
     "if True:"),
    ("hypergradient", TWO_RANKS,
     "distributed.average(torch.autograd.grad(loss, parameters, retain_graph=keep, materialize_grads=True))",
     "list(torch.autograd.grad(loss, parameters, retain_graph=keep, materialize_grads=True))"),
    ("hypergradient", THROUGH_STEP,
     "return -sum(float(",
     "return sum(float("),
    ("distributed", TWO_RANKS,
     "_SumAndTake.apply(gradients[0],",
     "_SumAndTake.apply(gradients[0].detach(),"),
    ("distributed", TWO_RANKS,
     "_GatherRows.apply(gradients[0].contiguous())",
     "gradients[0]"),
    ("distributed", TWO_RANKS,
     "_GatherRows.apply(tangents[0].contiguous())",
     "_GatherRows.apply(2 * tangents[0].contiguous())"),
    ("run", MASKS,
     "checkpoint.set_random_state(state, self.device)  # the same",
     "pass  # the same"),
    ("distributed", TWO_RANKS,
     "        dist.all_reduce(total)\n",
     ""),
    ("run", THROUGH_STEP,
     "self.scaler.scale(losses.matching - losses.classification)",
     "self.scaler.scale(losses.classification - losses.matching)"),
    ("run", THROUGH_STEP,
     "lambda losses: losses.matching - losses.classification)",
     "lambda losses: losses.classification - losses.matching)"),
    ("run", THROUGH_STEP,
     "self.losses(held_out).judged",
     "self.losses(batch).judged"),
    ("losses", METHODS,
     "ConvexPart(alpha / len(pairs), 1 / len(pairs),",
     "ConvexPart(1 / len(pairs), 1 / len(pairs),"),
    ("gradient_cache", CACHING,
     "total = list(direct)",
     "total = [torch.zeros_like(value) for value in direct]"),
    ("gradient_cache", CACHING,
     "with undisturbed(model), torch.no_grad():",
     "with torch.no_grad():"),
    ("gradient_cache", TWO_RANKS,
     "distributed.average(total)",
     "total"),
    ("losses", LOSSES,
     "second.T / tau",
     "second.T * tau"),
    ("losses", LOSSES,
     "F.cross_entropy(similarity.T, match)",
     "F.cross_entropy(similarity, match)"),
    ("losses", LOSSES,
     "(to_middle[0] + to_middle[1]) / 2",
     "to_middle[0] + to_middle[1]"),
    ("losses", LOSSES,
     "label_smoothing=uniform_labels",
     "label_smoothing=0.0"),
    ("losses", LOSSES,
     "/ (2 * len(p))",
     "/ len(p)"),
    ("methods/base", WEIGHTED,
     "(1 - alpha) * classification + alpha * matching",
     "alpha * classification + (1 - alpha) * matching"),
    ("methods/base", METHODS,
     "ConvexPart(1 - alpha, -1.0,",
     "ConvexPart(1 - alpha, 1.0,"),
    ("methods/official", METHODS,
     "2 * ((1 - state.alpha)",
     "((1 - state.alpha)"),
    ("schedules", SCHEDULES,
     "1 - math.exp(-1 / t)",
     "math.exp(-1 / t)"),
    ("schedules", SCHEDULES,
     "3.2e-2, -6.5e-3, 1.5e-4]",
     "3.2e-2, 6.5e-3, 1.5e-4]"),
    ("schedules", SCHEDULES,
     "[1 - weight[0], *(-a",
     "[weight[0], *(a"),
    ("schedules", SCHEDULES,
     "[1 - product for product",
     "[product for product"),
    ("schedules", SCHEDULES,
     "(-1) ** (j - i) * math.comb(j, i)",
     "math.comb(j, i)"),
    ("schedules", SCHEDULES,
     "math.comb(i, j), math.comb(n, j)",
     "math.comb(i, j), math.comb(i, j)"),
    ("schedules", SCHEDULES,
     "alpha - rate * gradient",
     "alpha + rate * gradient"),
    ("schedules", SCHEDULES,
     "self.eta_alpha * 0.5 **",
     "self.eta_alpha * 2 **"),
    ("launch", LAUNCH,
     "train = np.sort(shuffled[:held_out]), np.sort(shuffled[held_out:])",
     "train = np.sort(shuffled[:held_out]), train"),
    ("datasets/inputs", INPUTS,
     "self.frame_count), 0.5)",
     "self.frame_count), 0.0)"),
    ("datasets/inputs", INPUTS,
     "default_rng((self.seed, epoch, row, key))",
     "default_rng((self.seed, row, key))"),
    ("datasets/inputs", INPUTS,
     "data.augmentation if training else NONE",
     "data.augmentation"),
    ("datasets/augmentation", INPUTS,
     "random.uniform(-WIDEST, WIDEST)",
     "random.uniform(0, WIDEST)"),
    ("datasets/augmentation", INPUTS,
     "math.sqrt(area / ratio)",
     "math.sqrt(area) / ratio"),
    ("datasets/augmentation", INPUTS,
     "random.random() < settings.flip",
     "settings.flip"),
    ("datasets/augmentation", INPUTS,
     "with torch.random.fork_rng(devices=[]):",
     "if True:"),
    ("datasets/columns", SHARDS,
     "end - sizes, end)",
     "end, end)"),
    ("datasets/workplace", BUILD,
     "unfinished.replace(self.folder / CARD)",
     "(self.folder / CARD).write_text(unfinished.read_text()[:9]); unfinished.replace(self.folder / CARD)"),
    ("datasets/workplace", BUILD,
     'mark.write_text("")',
     "mark.unlink(missing_ok=True)"),
    ("datasets/workplace", BUILD,
     "marks = (self.folder / FINGERPRINT, self.folder / CARD)",
     "marks = (self.folder / FINGERPRINT,)"),
    ("models/fusion", FUSION,
     "(F.softmax(scores, dim=0) *",
     "(F.softmax(scores, dim=1) *"),
    ("models/fusion", FUSION,
     "gamma * second + beta)",
     "gamma * second - beta)"),
    ("models/fusion", FUSION,
     "self.gate(first).sigmoid() * self.value(second)",
     "self.value(first).sigmoid() * self.gate(second)"),
    ("models/fusion", FUSION,
     "classifier(2 * self.excite",
     "classifier(self.excite"),
    ("models/fusion", FUSION,
     "sum(dim=0), unimodal\n\n\nclass Weight",
     "mean(dim=0), unimodal\n\n\nclass Weight"),
    ("models/fusion", FUSION,
     "torch.cat([second, zeros, second])",
     "torch.cat([second, second, zeros])"),
    ("models/fusion", FUSION,
     "self.classifier(states[-1][0])",
     "self.classifier(states[0][0])"),
    ("models/encoders/resnet", ENCODERS,
     "sum(dim=1, keepdim=True)",
     "mean(dim=1, keepdim=True)"),
    ("models/encoders/inputs", ENCODERS,
     "torch.tensor(mean) * 255",
     "torch.tensor(mean)"),
    ("models/encoders/inputs", ENCODERS,
     "-1).mean(dim=1)",
     "-1).sum(dim=1)"),
    ("models/encoders/bert", ENCODERS,
     "attention_mask=present)",
     "attention_mask=None)"),
    ("models/encoders/clip", ENCODERS,
     "length if self.ends_by_padding else length - 1",
     "length - 1"),
    ("models/classifier", ENCODERS,
     "self.encoders[name].eval()",
     "pass"),
    ("optimizer", ENCODERS,
     "[group[\"lr\"] for group in parameters]",
     "rate"),
    ("optimizer", OPTIMIZER,
     "torch.optim.Adam(parameters",
     "torch.optim.AdamW(parameters"),
    ("optimizer", OPTIMIZER,
     "patience=settings.patience",
     "patience=settings.patience - 1"),
    ("optimizer", OPTIMIZER,
     "scheduler.step(training_loss)",
     "scheduler.step(-training_loss)"),
    ("run", OPTIMIZER,
     "distributed.from_rank_zero(row[\"train/loss\"], self.device)",
     "row[\"train/loss\"]"),
    ("run", OPTIMIZER,
     "self.scheduler.load_state_dict(self._restored[\"scheduler\"])",
     "pass"),
    ("exported", EXPORT,
     "averaged = state[\"averaged\"] is not None",
     "averaged = False"),
    ("exported", EXPORT,
     "if sha256(folder / name) != checksum:",
     "if False:"),
    ("exported", EXPORT,
     "update={\"noise\": {}}",
     "update={}"),
    ("exported", EXPORT,
     "with torch.random.fork_rng(devices=[]), architecture_only():",
     "with architecture_only():"),
    ("models/encoders/pretrained", EXPORT,
     "if _no_weights.get():",
     "if False:"),
    ("predictor", EXPORT,
     "self._inputs.frames(numbers, 1)",
     "{}"),
    ("predictor", EXPORT,
     "Row(str(number), 0, values, start, end)",
     "Row(str(number), 0, values)"),
    ("predictor", EXPORT,
     "self._method.predict(outputs)",
     "outputs.fused"),
    ("compute", COMPUTE,
     "module.in_channels % 16 == 0",
     "True"),
    ("compute", COMPUTE,
     "ENCODERS[name].large and computes_in_bfloat16(device)",
     "computes_in_bfloat16(device)"),
    ("models/classifier", COMPUTE,
     "embedding if half is None else embedding.float()",
     "embedding"),
    ("run", COMPUTE,
     "stack.enter_context(self.model.in_float32())",
     "pass"),
    ("run", COMPUTE,
     "torch.empty_like(self.named[name]).copy_(value)",
     "value.contiguous()"),
    ("run", COMPUTE,
     "self.averaged.load_state_dict(state[\"averaged\"])",
     "pass"),
    ("report/gradcam", GRADCAM,
     "gradient.mean(dim=(2, 3), keepdim=True)",
     "gradient"),
    ("report/gradcam", GRADCAM,
     "keepdim=True).relu()",
     "keepdim=True).abs()"),
    ("report/gradcam", GRADCAM,
     "one[:, 1:].transpose(1, 2)",
     "one[:, :-1].transpose(1, 2)"),
    ("report/gradcam", GRADCAM,
     "labels if class_of == \"true\" else",
     "labels if class_of == \"predicted\" else"),
    ("report/gradcam", GRADCAM,
     "if averaged := state.get(\"averaged\")",
     "if averaged := state.get(\"\")"),
    ("run", GRADCAM,
     "model = self.averaged.module if self.averaged else self.model\n        return {",
     "model = self.model\n        return {"),
    ("models/encoders/small", GRADCAM,
     "return self.features[-3]",
     "return self.features[-4]"),
    ("models/encoders/resnet", GRADCAM,
     "stages[-1]",
     "stages[-2]"),
    ("profile", PROFILE,
     "        if self._inside:\n            yield\n            return\n",
     ""),
    ("profile", PROFILE,
     "if self.warm_up:",
     "if self.warm_up > 1:"),
    ("profile", PROFILE,
     "        self._of_this_step = dict.fromkeys(PARTS, 0.0)\n        return",
     "        return"),
    ("run", PROFILE,
     "    @part(\"alpha update\")\n",
     ""),
    ("run", PROFILE,
     "with part(\"optimiser\"):",
     "with part(\"backward\"):"),
    ("metrics", METRICS,
     " / without[:, None]",
     ""),
    ("metrics", METRICS,
     "penalty[-1] = 1e-9",
     "pass"),
    ("statistics", STATISTICS,
     "(1 + level) / 2",
     "level"),
    ("statistics", STATISTICS,
     " / np.sqrt(n)",
     ""),
    ("statistics", STATISTICS,
     "(len(p_values) - rank) * p_values",
     "len(p_values) * p_values"),
    ("statistics", STATISTICS,
     "max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))",
     "min(1.0, (len(p_values) - rank) * p_values[index])"),
    ("report/confirmation", CONFIRMATION,
     "groups[len(groups) - 1 - strategies[::-1].index(name)]",
     "groups[strategies.index(name)]"),
    ("report/confirmation", CONFIRMATION,
     "theirs[ours.index].to_numpy()",
     "theirs.to_numpy()"),
    ("search/population", POPULATION,
     "group[\"lr\"] = group[\"initial_lr\"] * table[state[\"epoch\"]]",
     "pass"),
    ("search/population", POPULATION,
     "order[-quarter:] if",
     "order[:quarter] if"),
    ("search/population", POPULATION,
     "alphas[epoch:] = [alpha]",
     "alphas[epoch - 1 :] = [alpha]"),
    ("schedules", SCHEDULES,
     "(t - 1) * len(self.values) // T",
     "(t - 1) % len(self.values)"),
    ("optimizer", OPTIMIZER,
     "table[min(step, steps - 1) * len(table) // steps]",
     "table[min(step, len(table) - 1)]"),
]  # fmt: skip


def main() -> None:
    """Tries the mutations, and prints a table."""
    console = Console(width=100, highlight=False)
    chosen = [one for one in MUTATIONS if all(word in one[0] for word in sys.argv[1:])]
    table = Table("file", "mutation", "caught by")
    survived = 0
    for file, tests, code, becomes in track(chosen, console=console, transient=True):
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
