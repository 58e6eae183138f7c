from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_sweep import make_sweep
from synthetic import write_dataset
from torch import Tensor

from lfm_ray.config import RunConfig
from lfm_ray.datasets.shards import ModalityCard, Shards
from lfm_ray.errors import UserError
from lfm_ray.models.classifier import ModelSettings, MultimodalClassifier, Outputs
from lfm_ray.report.__main__ import main
from lfm_ray.report.gradcam import Kept, _image_encoder, choose, grad_cam, gradcam_figure, look
from lfm_ray.runtime import checkpoint
from lfm_ray.search.selection import ranked
from lfm_ray.search.sweep import trial_folder
from lfm_ray.settings import build, load
from lfm_ray.training.execution import Launch, execute
from lfm_ray.training.run_folder import CHECKPOINT, weights_file
from lfm_ray.training.source import DataSource
from lfm_ray.training.stored_model import StoredModel
from lfm_ray.training.trainer import build_model


@pytest.fixture
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def card(kind: str, *shape: int) -> ModalityCard:
    return ModalityCard(kind=kind, shape=list(shape), dtype="float32", mean=0.0, std=1.0)


CARDS = {
    "audio": card("audio", 1, 32, 48),
    "image": card("image", 3, 32, 40),
    "video": card("video", 2, 3, 32, 32),
    "text": ModalityCard(kind="text", shape=[6], dtype="int16", mean=0.0, std=1.0, vocabulary=9),
}


def classifier(encoders: dict[str, object], fusion: str = "sum") -> MultimodalClassifier:
    torch.manual_seed(0)
    settings = build(ModelSettings, {"encoders": encoders, "embedding_size": 8, "width": 4, "fusion": fusion})
    return MultimodalClassifier({name: CARDS[name] for name in encoders}, 3, settings)


def samples(model: MultimodalClassifier) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    made = {name: torch.randn(2, *CARDS[name].shape, generator=generator) for name in model.encoders if name != "text"}
    return made | {
        name: torch.tensor([[1, 2, 0, 0, 0, 0], [3, 4, 5, 0, 0, 0]]) for name in model.encoders if name == "text"
    }


def second_class(outputs: Outputs) -> Tensor:
    return outputs.fused[:, 1]


def enlarged(coarse: Tensor, name: str) -> Tensor:
    return F.interpolate(coarse[:, None], CARDS[name].shape[-2:], mode="bilinear").view(2, *shape_of_map(name))


def shape_of_map(name: str) -> list[int]:
    shape = CARDS[name].shape
    return [*shape[:-3], *shape[-2:]]


def test_after_a_mean_over_space_and_linear_layers_it_is_the_class_activation_map() -> None:
    """CAM (Zhou et al., CVPR 2016): ReLU(sum_k w_k A_k), here over the number of positions."""
    model = classifier({name: {"name": "resnet18", "width": 4} for name in ("audio", "image")})
    inputs = samples(model)
    highest = []
    for sign in (1, -1):
        found, outputs = grad_cam(model, inputs, lambda outputs, sign=sign: sign * outputs.fused[:, 1])
        for name, encoder in model.encoders.items():
            features = encoder.body(encoder.pixels(inputs[name], torch.float32)).last_hidden_state.detach()
            w = sign * model.head.classifiers[name].weight[1] @ encoder.project.weight
            expected = torch.einsum("k,bkhw->bhw", w, features).relu() / features[0, 0].numel()
            torch.testing.assert_close(found[name], enlarged(expected.detach(), name))
            highest.append(float(found[name].max()))
    assert max(highest[:2]) > 0 or max(highest[2:]) > 0
    assert torch.equal(outputs.fused, model(inputs).fused)


def test_of_a_small_encoder_a_channel_weighs_what_the_cells_of_its_pooling_weigh_together() -> None:
    """a_k = sum over the 2 x 2 cells of w_k,cell, over the number of positions."""
    model = classifier({"audio": {}, "image": {}})
    inputs = samples(model)
    found, _ = grad_cam(model, inputs, second_class)
    for name, encoder in model.encoders.items():
        *_, pool, flatten = encoder.features
        features = encoder.features[:-2](inputs[name]).detach()  # the cards' mean is 0 and their std 1
        assert torch.equal(encoder(inputs[name]), encoder.project(flatten(pool(features))))
        w = (model.head.classifiers[name].weight[1] @ encoder.project.weight).view(-1, 4).sum(dim=1)
        expected = torch.einsum("k,bkhw->bhw", w, features).relu() / features[0, 0].numel()
        torch.testing.assert_close(found[name], enlarged(expected.detach(), name))


@pytest.mark.parametrize(
    "encoders",
    [
        {"audio": {}, "video": {}},
        {"image": {"name": "resnet50", "width": 1}, "audio": {"name": "resnet18", "width": 1, "frozen": True}},
        {
            "video": {"name": "clip_image", "width": 8, "layers": 2},
            "image": {"name": "clip_image", "width": 8, "layers": 1},
        },
    ],
)
@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_the_weights_of_the_channels_are_slopes_of_the_logit(
    float64: None, encoders: dict[str, object], fusion: str
) -> None:
    """By finite differences: a channel raised by h at every position raises the logit by h positions a_k."""
    model = classifier(encoders, fusion).eval()
    inputs = {name: value.double() for name, value in samples(model).items()}
    found, _ = grad_cam(model, inputs, second_class)
    for name, encoder in model.encoders.items():
        expected = by_differences(model, inputs, name, _image_encoder(encoder).last_map)
        torch.testing.assert_close(found[name], enlarged(expected, name), rtol=1e-5, atol=1e-9)
        assert found[name].shape == (2, *shape_of_map(name))


def by_differences(model: MultimodalClassifier, inputs: dict[str, Tensor], name: str, layer: torch.nn.Module) -> Tensor:
    seen: list[Tensor] = []
    raised: list[Tensor] = []

    def hook(module: object, arguments: object, output: Tensor) -> Tensor:
        seen.append(output.detach())
        return output + raised[0] if raised else output

    handle = layer.register_forward_hook(hook)
    with torch.no_grad():
        model(inputs)
        features = seen[0]
        tokens = features.ndim == 3  # (frames, 1 + patches, K)
        channels = features.shape[-1] if tokens else features.shape[1]
        per_sample = len(features) // 2
        slopes = torch.zeros(len(features), channels)
        for frame in range(per_sample):
            for k in range(channels):
                values = []
                for h in (1e-5, -1e-5):
                    change = torch.zeros_like(features)
                    if tokens:
                        change[frame::per_sample, 1:, k] = h
                    else:
                        change[frame::per_sample, k] = h
                    raised[:] = [change]
                    values.append(second_class(model(inputs)))
                slopes[frame::per_sample, k] = (values[0] - values[1]) / 2e-5
        raised.clear()
    handle.remove()
    if tokens:
        size = _image_encoder(model.encoders[name]).patch_size
        rows = CARDS[name].shape[-2] // size
        features = features[:, 1:].reshape(len(features), rows, -1, channels).movedim(3, 1)
    positions = features.shape[2] * features.shape[3]
    return torch.einsum("bk,bkhw->bhw", slopes / positions, features).relu()


@pytest.mark.parametrize("corner", [(0, 0), (0, 32), (24, 0), (24, 32), (8, 16)])
def test_a_planted_bright_patch_is_found(corner: tuple[int, int]) -> None:
    """By kernels that average, and a class whose logit is brightness: in a picture, and in one frame of a clip."""
    model = classifier({"image": {}, "video": {}})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.abs() if parameter.ndim == 1 else torch.full_like(parameter, 0.1))
    y, x = corner
    picture = torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    clip = torch.zeros(1, 2, 3, 32, 32)
    picture[..., y : y + 8, x : x + 8] += 5
    clip[:, 1, :, y : y + 8, x % 32 : x % 32 + 8] += 5
    heat, _ = grad_cam(model, {"image": picture, "video": clip}, second_class)
    for found, left in ((heat["image"][0], x), (heat["video"][0, 1], x % 32)):
        peak = np.unravel_index(int(found.argmax()), found.shape)
        assert (y <= peak[0] < y + 8, left <= peak[1] < left + 8) == (True, True)
        inside = found[y : y + 8, left : left + 8]
        assert inside.mean() > 3 * found.mean()
    assert heat["video"][0, 1].max() > 3 * heat["video"][0, 0].max()


def test_text_has_no_map() -> None:
    model = classifier({"text": {}, "image": {}})
    assert set(grad_cam(model, samples(model), second_class)[0]) == {"image"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of three epochs, of which all are kept, and one without."""
    folder = tmp_path_factory.mktemp("runs")
    shards = write_dataset(folder / "shards")
    settings = ["epochs=3", "model.width=4", "model.embedding_size=8", f"data.path={shards}", "device=cpu"]
    for name, extra in {
        "joint": ["checkpoint.keep_every=1"],
        "ema": ["checkpoint.keep_every=2", "optimizer.ema_decay=0.5", "alpha.strategy=heuristic"],
        "bare": [],
    }.items():
        config = load(RunConfig, None, [*settings, *extra])
        execute(Launch(config, DataSource(Shards(shards), {}), folder / name), report=lambda row: None)
    return folder


def test_the_models_of_the_first_every_nth_and_the_last_epoch_are_kept(runs: Path) -> None:
    config = load(RunConfig, None, ["checkpoint.keep_every=4"])
    assert [t for t in range(1, 11) if config.checkpoint.keeps(t, 10)] == [1, 4, 8, 10]
    assert list(Kept.of(runs / "joint")[0].files) == [1, 2, 3]
    assert list(Kept.of(runs / "bare")[0].files) == [3]
    assert not (runs / "bare" / "weights").exists()
    last = checkpoint.load(runs / "joint" / CHECKPOINT)["model"]
    kept = [checkpoint.load(weights_file(runs / "joint", epoch))["model"] for epoch in (2, 3)]
    assert all(torch.equal(kept[1][key], last[key]) for key in last)
    assert not all(torch.equal(kept[0][key], last[key]) for key in last)


def test_what_is_kept_of_a_moving_average_is_the_average_that_was_evaluated(runs: Path) -> None:
    state = checkpoint.load(runs / "ema" / CHECKPOINT)
    kept = checkpoint.load(weights_file(runs / "ema", 3))["model"]
    for key, value in kept.items():
        assert torch.equal(value, state["averaged"][f"module.{key}"])
    assert not all(torch.equal(value, state["model"][key]) for key, value in kept.items())
    weights_file(runs / "ema", 3).unlink()  # so that it is taken from the checkpoint
    (run,) = Kept.of(runs / "ema")
    loaded = run.load(3, build_model(run.config, Shards(runs / "shards").card)).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in kept.items())


def test_samples_are_numbers_ids_and_rows_but_not_of_the_test_split(runs: Path) -> None:
    shards = Shards(runs / "shards")
    assert choose(shards, ["3"]) == [("val", 0), ("val", 1), ("val", 2)]  # one of each class
    assert choose(shards, ["train-5", "val/7", "val-2", "train/0"]) == [
        ("train", 5), ("val", 7), ("val", 2), ("train", 0),
    ]  # fmt: skip
    for sample, reason in {
        "test/0": "only lfm_ray.confirm reads the test split",
        "test-3": "neither an id in val or train",
        "val/24": "val has rows 0 to 23",
        "0": "nor a row such as val/7",
    }.items():
        with pytest.raises(UserError, match=reason):
            choose(shards, [sample])


def test_the_logit_is_that_of_the_true_or_of_the_predicted_class(runs: Path) -> None:
    (true,), (predicted,) = (list(look(Kept.of(runs / "joint"), ["24"], of)) for of in ("true", "predicted"))
    labels = torch.from_numpy(Shards(runs / "shards").take("val", np.arange(24), [])[1])
    right = true.probability[1].argmax(dim=1) == labels
    assert right.any()
    assert not right.all()
    (run,) = Kept.of(runs / "joint")
    model = run.load(1, build_model(run.config, Shards(runs / "shards").card))
    expected, _ = grad_cam(model, true.inputs, lambda outputs: outputs.fused.gather(1, labels[:, None])[:, 0])
    torch.testing.assert_close(true.heat[1]["image"], expected["image"])
    same = (true.heat[1]["image"] == predicted.heat[1]["image"]).flatten(1).all(dim=1)
    assert same[right].all()
    assert not same[~right].all()


def test_the_figure_has_a_row_for_each_run_and_a_column_for_each_epoch(runs: Path, tmp_path: Path) -> None:
    kept = [*Kept.of(runs / "joint"), *Kept.of(weights_file(runs / "joint", 1)), *Kept.of(runs / "bare")]
    assert [one.name.splitlines()[1] for one in kept] == ["joint", "joint", "bare"]
    gradcam_figure(kept, ["val/0", "val/5"], tmp_path / "gradcam.png")
    height, width = matplotlib.image.imread(tmp_path / "gradcam.png").shape[:2]
    assert (width, height) == (round((1.5 * 4 + 1) * 110), round(1.75 * 12 * 110))


def test_the_command_writes_the_figure(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: object) -> None:
        monkeypatch.setattr("sys.argv", ["report", *map(str, words)])
        main()

    command("--gradcam", runs / "joint", runs / "bare", "--samples", "val/1", "--to", tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000
    assert "alpha = 0 bare: one epoch is kept" in capsys.readouterr().out
    for words, reason in {
        ("--gradcam", runs / "joint", "--to", "one.html"): "the figure is a .png file",
        (runs, "--gradcam", runs / "joint"): "give the folders of sweeps, or --gradcam with runs",
    }.items():
        with pytest.raises(UserError, match=reason):
            command(*words)


def test_a_sweep_of_which_trials_were_deleted_shows_the_best_that_are_left(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(StoredModel, "check_is_of", lambda *_: None)  # all trials get the same model
    sweep = make_sweep(tmp_path / "sweep", trials=12, ends=("finished",))
    sweep.let_go()
    folders = {trial.number: trial_folder(sweep.folder, trial.number) for trial in sweep.trials()}
    for folder in folders.values():
        shutil.copy(runs / "joint/config.yaml", folder)
        shutil.copy(runs / "joint" / CHECKPOINT, folder)
    groups: dict[str, list[int]] = {}
    for trial in ranked(sweep.trials()):
        groups.setdefault(trial.strategy, []).append(trial.number)
    (strategy, (best, second, *_)), *_ = [item for item in groups.items() if len(item[1]) > 1]
    shutil.rmtree(folders[best])
    found = {one.name.split()[-1]: one.notice for one in Kept.of(sweep.folder)}
    said = f"trial {best}, the best of {strategy}, has no model any more; this is trial {second}"
    assert found.pop(f"{second:04d}") == said
    assert set(found) == {f"{numbers[0]:04d}" for name, numbers in groups.items() if name != strategy}
    assert not any(found.values())
    monkeypatch.setattr("sys.argv", ["report", "--gradcam", str(sweep.folder), "--to", str(tmp_path / "one.png")])
    main()
    assert said in " ".join(capsys.readouterr().out.split())
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)
    with pytest.raises(UserError, match=r"sweep: no finished trial of this sweep has its model any more"):
        Kept.of(sweep.folder)


def test_what_cannot_be_shown_is_refused(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source, reason in {tmp_path / "empty": "is not a run, sweep", runs / "gone": "is not a run, sweep"}.items():
        with pytest.raises(UserError, match=reason):
            Kept.of(source)
    checkpoint.save(tmp_path / "other.pt", {"epoch": 1})
    with pytest.raises(UserError, match="not a checkpoint of lfm_ray"):
        Kept.of(tmp_path / "other.pt")
    other = write_dataset(tmp_path / "shards", val=12)
    text = (other / "dataset.json").read_text().replace('"synthetic"', '"another"')
    (other / "dataset.json").write_text(text)
    config = load(RunConfig, None, [f"data.path={other}", "epochs=1", "device=cpu"])
    execute(Launch(config, DataSource(Shards(other), {}), tmp_path / "run"), report=lambda row: None)
    with pytest.raises(UserError, match="not the same shards as those of the first run"):
        list(look([*Kept.of(runs / "joint"), *Kept.of(tmp_path / "run")], ["1"]))


def test_a_map_of_what_is_missing_is_empty(float64: None) -> None:
    model = classifier({"audio": "small", "image": "small"})
    given = samples(model)
    masks = {"/has/image": torch.tensor([False, True])}
    maps, outputs = grad_cam(model, given | masks, lambda some: some.fused[:, 0])
    alone, _ = grad_cam(model, {name: value[1:] for name, value in given.items()}, lambda some: some.fused[:, 0])
    assert not maps["image"][0].any() and maps["image"].shape == (2, 32, 40)
    torch.testing.assert_close(maps["image"][1], alone["image"][0])
    torch.testing.assert_close(maps["audio"][1], alone["audio"][0])
    assert outputs.rows_with("image").tolist() == [False, True]
