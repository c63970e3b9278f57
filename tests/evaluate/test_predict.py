import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dyngraph.data import eval_transform
from dyngraph.data.cityscapes import PALETTE, decode_labels
from dyngraph.evaluate import Inference
from dyngraph.evaluate.predict import predict_folder

NAMES = ("bonn/a_leftImg8bit.png", "bonn/deep/c_leftImg8bit.png", "ulm/b_leftImg8bit.png")


class Model(nn.Sequential):
    """Scores that depend on a pixel and on the mode of the model's parts."""

    def __init__(self, num_classes=19):
        super().__init__(nn.Conv2d(3, num_classes, 1), nn.Dropout(0.5), nn.BatchNorm2d(num_classes))
        self.num_images = 0

    def forward(self, image):
        self.num_images += 1
        return super().forward(image)


def save(path, size=(12, 17), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(256, (*size, len(mode)), dtype=torch.uint8).squeeze(-1).numpy()
    Image.fromarray(pixels).save(path)


def load(path):
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image))


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def content(folder):
    return {name: (folder / name).read_bytes() for name in files(folder)}


@pytest.fixture
def images(tmp_path):
    for number, name in enumerate(NAMES):
        save(tmp_path / "images" / name, size=(12 + number, 17))
    return tmp_path / "images"


def predict(model, images, **options):
    out = images.parent / "out"
    predict_folder(model, images, out, Inference((8, 8)), **{"progress": False, **options})
    return out


@torch.no_grad()
def classes_by_hand(model, picture):
    image = eval_transform()(picture.permute(2, 0, 1))
    return model.eval()(image[None])[0].argmax(dim=0)


def test_every_image_gets_labels_overlay_and_label_ids(images):
    model = Model()
    out = predict(model, images, label_ids=True)
    names = [name.removesuffix("_leftImg8bit.png") for name in NAMES]
    assert files(out) == [
        *(f"label_ids/{name}_pred_labelIds.png" for name in "abc"),
        *(f"labels/{name}_leftImg8bit.png" for name in names),
        *(f"overlays/{name}_leftImg8bit.png" for name in names),
    ]
    for name in NAMES:
        picture = load(images / name)
        classes = classes_by_hand(model, picture)
        assert len(classes.unique()) > 3
        assert torch.equal(load(out / "labels" / name), classes.to(torch.uint8))
        blended = (picture.int() + PALETTE[classes].int()) // 2
        assert torch.equal(load(out / "overlays" / name).int(), blended)
        ids_name = name.rpartition("/")[2].replace("leftImg8bit", "pred_labelIds")
        assert torch.equal(load(out / "label_ids" / ids_name), decode_labels(classes).byte())


def test_label_ids_are_written_on_demand_only(images):
    out = predict(Model(), images)
    assert {name.partition("/")[0] for name in files(out)} == {"labels", "overlays"}


def test_formats_and_modes(tmp_path):
    images = tmp_path / "images"
    for name, mode in [("a.PNG", "RGBA"), ("b.jpg", "RGB"), ("c.JPEG", "L"), ("d.png", "L")]:
        save(images / name, mode=mode)
    (images / "notes.txt").write_text("no image")
    (images / "folder.png").mkdir()
    out = predict(Model(3), images, palette=PALETTE[:3])
    assert files(out) == [
        f"{kind}/{name}.png" for kind in ("labels", "overlays") for name in "abcd"
    ]
    assert load(out / "overlays" / "d.png").shape == (12, 17, 3)


def test_the_model_is_left_in_its_mode(images):
    model = Model()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, images)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_images_have_the_type_of_the_parameters(images):
    model = Model().double()
    out = predict(model, images)
    classes = classes_by_hand(model.float(), load(images / NAMES[0]))
    assert torch.equal(load(out / "labels" / NAMES[0]).long(), classes)


def test_finished_images_are_skipped(images):
    model = Model()
    out = predict(model, images, model_digest="a")
    whole = content(out)
    num_images = model.num_images
    predict(model, images, model_digest="a")
    assert model.num_images == num_images
    (out / "overlays" / NAMES[1]).unlink()
    predict(model, images, model_digest="a")
    assert num_images < model.num_images < 2 * num_images
    assert content(out) == whole


@pytest.mark.parametrize("digests", [("a", "b"), (None, "a"), ("a", None), (None, None)])
def test_files_of_another_model_are_replaced(images, tmp_path, digests):
    first, second = Model(), Model()
    out = predict(first, images, model_digest=digests[0])
    predict(second, images, model_digest=digests[1])
    assert second.num_images > len(NAMES)
    predict_folder(
        second, images, tmp_path / "fresh", Inference((8, 8)), progress=False,
        model_digest=digests[1],
    )  # fmt: skip
    assert content(out) == content(tmp_path / "fresh")


def test_files_of_another_image_or_other_settings_are_replaced(images):
    model = Model()
    out = predict(model, images, model_digest="a")
    before = content(out)
    save(images / NAMES[0], size=(12, 17))
    predict(model, images, model_digest="a")
    after = content(out)
    changed = {name for name in after if after[name] != before[name]}
    stem = NAMES[0].removesuffix(".png")
    assert changed == {f"labels/{NAMES[0]}", f"overlays/{NAMES[0]}", f"records/{stem}.json"}
    palette = PALETTE.flip(0)
    predict(model, images, model_digest="a", palette=palette)
    assert all(content(out)[f"overlays/{name}"] != after[f"overlays/{name}"] for name in NAMES)


def test_half_replaced_files_are_of_no_model(images, monkeypatch):
    """Back at the first model, after an interruption of the second."""
    first, second = Model(), Model()
    out = predict(first, images, model_digest="a")
    whole = content(out)
    write = Path.write_bytes

    def stop(path, content):
        if path.parent == out / "overlays/bonn":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(Path, "write_bytes", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(second, images, model_digest="b")
    monkeypatch.undo()
    assert content(out)[f"labels/{NAMES[0]}"] != whole[f"labels/{NAMES[0]}"]
    predict(first, images, model_digest="a")
    assert content(out) == whole


@pytest.mark.parametrize(
    "partial",
    [
        "labels/bonn/deep/.c_leftImg8bit.png.partial",
        "overlays/bonn/deep/.c_leftImg8bit.png.partial",
        "label_ids/.c_pred_labelIds.png.partial",
    ],
)
def test_an_interrupted_write_leaves_no_half_file(images, monkeypatch, partial):
    model = Model()
    out = predict(model, images, label_ids=True)
    whole = content(out)
    shutil.rmtree(out)
    write_whole = Path.write_bytes

    def write_half(path, content):
        if path == out / partial:
            write_whole(path, content[:20])
            raise KeyboardInterrupt
        write_whole(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(KeyboardInterrupt):
        predict(model, images, label_ids=True)
    monkeypatch.undo()
    written = content(out)
    assert len(written.pop(partial)) == 20
    assert 3 <= len(written) <= 5
    assert written.items() < whole.items()
    predict(model, images, label_ids=True)
    assert content(out) == whole


@pytest.mark.parametrize("name", [NAMES[1], "bonn/deep/b.jpg"])
@pytest.mark.parametrize(
    "spoil",
    [lambda whole: whole[: len(whole) // 2], lambda _: b"", lambda _: b"BM no image"],
    ids=["truncated", "empty", "text"],
)
def test_a_corrupt_image_is_named(images, name, spoil):
    path = images / name
    save(path)
    path.write_bytes(spoil(path.read_bytes()))
    message = re.escape(f"{path}: expected a readable PNG or JPEG image, got ")
    with pytest.raises(OSError, match=rf"^{message}"):
        predict(Model(), images)
    out = images.parent / "out"
    assert files(out) == [f"{kind}/{NAMES[0]}" for kind in ("labels", "overlays")]
    path.unlink()
    predict(Model(), images)
    assert (out / "labels" / NAMES[2]).exists()


def test_unreadable_images_are_skipped(images):
    """And so are what was made of them when they were whole, and its record."""
    model = Model()
    options = {"label_ids": True, "model_digest": "a"}
    out = predict(model, images, **options)
    whole = content(out)
    for name in NAMES[1:]:
        (images / name).write_bytes(b"no image")
    errors = []
    labels = predict_folder(
        model,
        images,
        out,
        Inference((8, 8)),
        progress=False,
        on_unreadable=errors.append,
        **options,
    )
    assert labels == [out / "labels" / NAMES[0]]
    assert [str(error).partition(":")[0] for error in errors] == [
        str(images / n) for n in NAMES[1:]
    ]
    assert content(out) == {name: file for name, file in whole.items() if "a_" in name}


def test_errors_of_the_model_skip_nothing(images):
    class Failing(Model):
        def forward(self, image):
            raise ValueError("the model's own")

    with pytest.raises(ValueError, match="the model's own"):
        predict(Failing(), images, on_unreadable=lambda error: None)


def test_an_image_that_is_gone_is_skipped(images):
    """One that is there when the images are listed, but cannot be opened any more."""
    model, errors = Model(), []
    out = predict(model, images, model_digest="a")
    gone = images / NAMES[1]
    paths = [images / name for name in NAMES]
    gone.unlink()
    options = {"paths": paths, "model_digest": "a", "on_unreadable": errors.append}
    assert predict(model, images, **options) == out
    (error,) = errors
    assert str(error).startswith(f"{gone}: expected a readable PNG or JPEG image")
    assert not (out / "labels" / NAMES[1]).exists()


def test_other_formats_are_not_opened(images):
    Image.new("RGB", (3, 2)).save(images / "a.png", format="BMP")
    with pytest.raises(OSError, match=re.escape(f"{images / 'a.png'}: expected a readable PNG")):
        predict(Model(), images)


def test_a_bar_over_images_is_shown_on_a_terminal(images, capsys, monkeypatch):
    predict(Model(), images, progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    predict(Model(), images, progress=True)
    assert "predict: 100%" in capsys.readouterr().err
    predict(Model(), images, progress=False)
    assert capsys.readouterr() == ("", "")


def test_folders_that_make_no_sense(images, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^images: expected the folder .*nowhere, which"):
        predict(Model(), tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^images: expected PNG or JPEG images in .* got none"):
        predict(Model(), tmp_path / "empty")
    for out in (images, images / "out"):
        with pytest.raises(ValueError, match=r"^out: expected a folder outside .*images, got "):
            predict_folder(Model(), images, out, Inference())


def test_two_images_for_one_file(images):
    save(images / "bonn/a_leftImg8bit.jpg")
    with pytest.raises(ValueError, match=r"^images: .*bit.jpg and .*bit.png would both be written"):
        predict(Model(), images)
    (images / "bonn/a_leftImg8bit.jpg").unlink()
    save(images / "ulm/a_leftImg8bit.png")
    with pytest.raises(ValueError, match=r"would both be written to .*label_ids/a_pred_labelIds"):
        predict(Model(), images, label_ids=True)


def test_names_that_are_not_those_of_cityscapes(images):
    save(images / "ulm/b.jpg")
    with pytest.raises(ValueError, match=r"^label_ids: expected images with names …_leftImg8bit"):
        predict(Model(), images, label_ids=True)
    assert not (images.parent / "out").exists()


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        (PALETTE[:18], r"^palette: expected 19 colours, one for each class of the model, got 18"),
        (PALETTE.float(), r"^palette: expected \[C, 3\], uint8, got \[19, 3\], torch.float32"),
        (PALETTE[0], r"^palette: expected \[C, 3\], uint8, got \[3\], torch.uint8"),
        (PALETTE.new_zeros(256, 3), r"^palette: expected at most 255 colours, got 256"),
    ],
)
def test_palettes_that_do_not_fit(images, palette, message):
    with pytest.raises(ValueError, match=message):
        predict(Model(), images, palette=palette)
    assert not (images.parent / "out").exists()


def test_pictures_are_upright(images, tmp_path):
    """A picture and its EXIF orientation give what the turned picture gives."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(images / NAMES[0])
    turned = tmp_path / "turned/a.png"
    turned.parent.mkdir()
    picture.save(turned, exif=exif)
    picture.transpose(Image.Transpose.ROTATE_270).save(images / NAMES[0])
    model = Model()
    predict_folder(model, images, tmp_path / "a", Inference(), progress=False)
    predict_folder(model, turned.parent, tmp_path / "b", Inference(), progress=False)
    for kind in ("labels", "overlays"):
        found, expected = tmp_path / "b" / kind / "a.png", tmp_path / "a" / kind / NAMES[0]
        assert load(found).shape[:2] == (17, 12)
        assert found.read_bytes() == expected.read_bytes()


def test_more_pixels_than_may_be(images, tmp_path):
    out = tmp_path / "out"
    predict_folder(Model(), images, out, Inference(), progress=False, max_pixels=14 * 17)
    message = rf"{NAMES[2]}: expected .* at most {14 * 17 - 1} pixels"
    with pytest.raises(OSError, match=message):
        predict_folder(Model(), images, out, Inference(), progress=False, max_pixels=14 * 17 - 1)
