"""A full disk at every file that is written: the former ones stay, and the error names the file.

What is to fail is a link to /dev/full, where the system itself says that no space is left.
"""

import re
import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import lightning
import pytest
import torch
from small_fit import arguments, fit, step, weights
from small_runs import TINY_DETECTOR

from dyngraph.cli import main
from dyngraph.data import generate_coco, generate_folder
from dyngraph.models import load_safetensors, save_safetensors
from dyngraph.train.folder_lock import lock_folder
from dyngraph.train.log import CsvLog, read_log

FULL = "No space left on device"

# About loaders without workers and few steps.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:::lightning")]


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    generate_coco(folder, num_train=2, num_val=1, progress=False)
    return folder


@pytest.fixture(scope="session")
def trained(root, coco, tmp_path_factory):
    """A segmenter and a detector of two iterations, by name."""
    folder = tmp_path_factory.mktemp("trained")
    fit(root, folder / "segmentation", 2)
    run = [f"--data.root={coco}", f"--trainer.folder={folder / 'detection'}"]
    main(["fit", *TINY_DETECTOR, *run, "--trainer.max_steps=1"])
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """The run of a segmenter, which a test may go on with."""
    return shutil.copytree(trained / "segmentation", tmp_path / "run")


def fill(path):
    """Has writing to a file fail."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/full")


def partial(path):
    return path.with_name(f".{path.name}.partial")


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_fails(arguments, path, capsys):
    """The command ends in one line that names the file."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert FULL in line
    assert str(path) in line


@pytest.mark.parametrize("name", ["last.ckpt", "config.yaml", "csv-2/metrics.csv"])
def test_a_resumed_run_keeps_what_it_had(root, trained, run, tmp_path, name, capsys):
    # The new log comes after new checkpoints.
    kept = ["csv/metrics.csv"] if name.startswith("csv") else ["csv/metrics.csv", "last.ckpt", name]
    before = {file: (run / file).read_bytes() for file in kept}
    fill(partial(run / name))
    assert_fails(arguments(root, run, 4), run / name, capsys)
    assert {file: (run / file).read_bytes() for file in before} == before
    assert step(run) >= 2
    # With space again, it ends as if nothing had been.
    assert not partial(run / name).is_symlink()
    fit(root, run, 4)
    undisturbed = shutil.copytree(trained / "segmentation", tmp_path / "undisturbed")
    fit(root, undisturbed, 4)
    expected = weights(undisturbed)
    assert all(torch.equal(weight, expected[key]) for key, weight in weights(run).items())
    assert read_log(run) == read_log(undisturbed)


class FullAfterAnIteration(lightning.Callback):
    """Has TensorBoard's file, which then is there, fail from then on."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: object) -> None:
        if trainer.global_step == 3:
            for path in Path(trainer.default_root_dir, "tensorboard").iterdir():
                fill(path)


def test_pictures_and_values_for_tensorboard(root, run, capsys):
    former = content(run / "csv")
    callback = f"--trainer.callbacks+={__name__}.FullAfterAnIteration"
    assert_fails(arguments(root, run, 4, callback), run / "tensorboard", capsys)
    assert step(run) in (3, 4)
    assert content(run / "csv") == former


@contextmanager
def largest_file(size):
    """No file grows beyond some bytes: writing fails in the middle."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_log_that_grows(tmp_path):
    path = tmp_path / "csv/metrics.csv"
    log = CsvLog(path.parent)
    log.log_metrics({"loss": 1.5}, step=1)
    former = path.read_bytes()
    full = re.escape(f"File too large: '{path}'")
    for values in ({"loss": 2.5}, {"loss": 2.5, "miou": 3.5}):
        with largest_file(len(former) + 3), pytest.raises(OSError, match=full):
            log.log_metrics(values, step=2)
        assert path.read_bytes() == former
        assert read_log(tmp_path) == {"loss": {1: 1.5}}
    assert [*path.parent.iterdir()] == [path]
    log.finalize("failed")
    assert read_log(tmp_path) == {"loss": {1: 1.5, 2: 2.5}, "miou": {2: 3.5}}


def test_the_lock(tmp_path):
    full = re.escape(f"File too large: '{tmp_path / '.lock'}'")
    with largest_file(0), pytest.raises(OSError, match=full), lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("segmentation", "labels/{}.png"),
        ("segmentation", "overlays/{}.png"),
        ("segmentation", "records/{}.json"),
        ("detection", "detections/{}.json"),
        ("detection", "overlays/{}.png"),
        ("detection", "records/{}.json"),
    ],
)
def test_a_prediction(root, coco, trained, tmp_path, task, name, capsys):
    images = root / "images/val" if task == "segmentation" else coco / "train2017"
    first, last = sorted(path.stem for path in images.iterdir())
    arguments = ["predict", f"--checkpoint={trained / task / 'last.ckpt'}", f"--images={images}",
                 "--trainer.accelerator=cpu"]  # fmt: skip
    out = tmp_path / "out"
    fill(partial(out / name.format(last)))
    assert_fails([*arguments, f"--out={out}"], out / name.format(last), capsys)
    written = content(out)
    assert out / "records" / f"{first}.json" in written
    assert out / "records" / f"{last}.json" not in written
    main([*arguments, f"--out={out}"])
    assert content(out).items() > written.items()


def test_results_for_the_evaluation_server(coco, trained, tmp_path, capsys):
    out, info = tmp_path / "out", coco / "annotations/instances_train2017.json"
    arguments = ["predict", f"--checkpoint={trained / 'detection/last.ckpt'}", f"--out={out}",
                 f"--images={coco / 'train2017'}", f"--image_info={info}",
                 "--trainer.accelerator=cpu"]  # fmt: skip
    results = out / "detections_instances_train2017_dyngraph_results.json"
    main(arguments)
    before = content(out)
    fill(partial(results))
    assert_fails(arguments, results, capsys)
    assert content(out) == before


@pytest.mark.parametrize("out", ["curves.png", "curves.pdf"])
def test_a_plot(trained, tmp_path, out, capsys):
    former = tmp_path / out
    former.write_text("the former one")
    fill(partial(former))
    run = str(trained / "segmentation")
    assert_fails(["plot", run, "--metrics=miou", f"--out={former}"], former, capsys)
    assert former.read_text() == "the former one"


def test_weights(tmp_path):
    path, model = tmp_path / "a.safetensors", torch.nn.Linear(3, 4)
    save_safetensors(model, path)
    fill(partial(path))
    with pytest.raises(OSError, match=rf"{FULL}: '{path}'"):
        save_safetensors(torch.nn.Linear(3, 4), path)
    loaded = torch.nn.Linear(3, 4)
    load_safetensors(loaded, path)
    assert torch.equal(loaded.weight, model.weight)


def test_a_generated_set(root, tmp_path):
    """Its files go through a folder beside them."""
    ordinary = Path.write_bytes

    def write(path, data):
        if path.name == "classes.txt":
            path.symlink_to("/dev/full")
        return ordinary(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        with pytest.raises(OSError, match=rf"{FULL}: '{tmp_path / 'classes.txt'}'"):
            generate_folder(tmp_path, num_train=2, num_val=2, progress=False)
    generate_folder(tmp_path, num_train=2, num_val=2, progress=False)
    assert (tmp_path / "classes.txt").read_bytes() == (root / "classes.txt").read_bytes()
