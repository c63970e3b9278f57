import re

import numpy as np
import pytest
from broken_files import grey_png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile

from dyngraph.data.files import (
    MAX_PIXELS,
    open_image,
    read_image,
    read_names,
    read_rgb,
    read_rgb_size,
)

ORIENTATION = 0x0112


def save(path, form, exif):
    """A picture whose corners differ, 24 rows of 40 pixels."""
    pixels = np.zeros((24, 40, 3), dtype=np.uint8)
    pixels[:12, :20], pixels[:12, 20:], pixels[12:, :20] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    Image.fromarray(pixels).save(path, format=form, exif=exif)


def oriented(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_upright(tmp_path, form, orientation):
    path = tmp_path / "picture"
    save(path, form, oriented(orientation))
    image = read_rgb(path)
    with Image.open(path) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert read_rgb_size(path) == tuple(image.shape[1:])
    assert read_rgb_size(path) == ((40, 24) if orientation in (5, 6, 7, 8) else (24, 40))


def test_what_orientation_6_means(tmp_path):
    """The camera was held upright: the first row that is stored is the right edge."""
    save(tmp_path / "a.png", "PNG", oriented(6))
    image = read_rgb(tmp_path / "a.png")
    assert image[:, 0, -1].tolist() == [255, 0, 0]
    assert image[:, -1, -1].tolist() == [0, 255, 0]
    assert image[:, 0, 0].tolist() == [0, 0, 255]


START = b"Exif\0\0MM\0*\0\0\0\x08"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif",
    [
        b"junk",
        START[:6],
        START,
        # "6" as text.
        START + b"\0\1\x01\x12\0\2\0\0\0\2\x36\0\0\0\0\0\0\0",
    ],
    ids=["junk", "empty", "cut off", "text"],
)
def test_broken_exif_turns_nothing(tmp_path, exif):
    save(tmp_path / "a.jpg", "JPEG", exif)
    assert read_rgb(tmp_path / "a.jpg").shape == (3, 24, 40)


@pytest.fixture
def undecoded(monkeypatch):
    """Makes decoding an error."""

    def load(image):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile, "load", load)


def test_the_size_is_known_without_decoding(tmp_path, undecoded):
    for form in ("PNG", "JPEG"):
        save(tmp_path / form, form, oriented(6))
        assert read_rgb_size(tmp_path / form) == (40, 24)
        with pytest.raises(OSError, match="decoded"):
            read_rgb(tmp_path / form)


@pytest.mark.parametrize("read", [read_rgb, read_rgb_size, lambda p: read_image(p, ("PNG",))])
def test_too_many_pixels_are_not_decoded(tmp_path, undecoded, read):
    path = tmp_path / "bomb.png"
    path.write_bytes(grey_png(13_000, 13_000, 8, b"\0"))
    message = (
        rf"^{re.escape(str(path))}: expected a readable PNG.* image of at most 125000000 pixels, "
        r"as max_pixels says, got 13000 x 13000 = 169000000$"
    )
    with pytest.raises(OSError, match=message):
        read(path)


@pytest.mark.filterwarnings("error")
def test_max_pixels_is_the_only_limit(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(grey_png(50_000, 50_000, 8, b"\0"))
    assert read_rgb_size(path, max_pixels=50_000**2) == (50_000, 50_000)
    with pytest.raises(OSError, match=rf"at most {50_000**2 - 1} pixels"):
        read_rgb_size(path, max_pixels=50_000**2 - 1)
    # Large ones of real life: a tile of Sentinel-2 and a photo of 108 megapixels.
    for height, width in [(10_980, 10_980), (12_000, 9_000)]:
        path.write_bytes(grey_png(height, width, 8, b"\0"))
        assert read_rgb_size(path) == (height, width)
        assert height * width <= MAX_PIXELS


def test_the_largest_picture_is_read(tmp_path):
    save(tmp_path / "a.png", "PNG", None)
    assert read_rgb(tmp_path / "a.png", max_pixels=24 * 40).shape == (3, 24, 40)
    with pytest.raises(
        OSError, match=r"at most 959 pixels, as max_pixels says, got 24 x 40 = 960$"
    ):
        read_rgb(tmp_path / "a.png", max_pixels=24 * 40 - 1)


def test_an_opened_file_is_closed(tmp_path):
    save(tmp_path / "a.png", "PNG", None)
    with open_image(tmp_path / "a.png", ("PNG",)) as image:
        file = image.fp
        assert not file.closed
    assert file.closed


NAMES = st.text(st.characters(categories=["L", "N", "P"]), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(NAMES, min_size=1, unique=True),
    end=st.sampled_from(["\n", "\r\n"]),
    tail=st.sampled_from(["", "\n", " \r\n\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_names_are_read_as_they_were_written(tmp_path, names, end, tail, mark):
    path = tmp_path / "names.txt"
    path.write_bytes((mark + end.join(f" {name}\t" for name in names) + tail).encode())
    assert read_names(path) == tuple(names)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary())
def test_any_content_is_read_or_refused(tmp_path, content):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    names, problem = None, None
    try:
        names = read_names(path)
    except ValueError as error:
        problem = str(error)
    if names is None:
        assert str(path) in problem
    else:
        assert names
        assert all(name and name == name.strip() for name in names)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": expected one name per line, got none"),
        (b" \n\n", ": expected one name per line, got none"),
        (b"a\n\nb", ", line 2: expected a new name, got an empty line"),
        (b"\na", ", line 1: expected a new name, got an empty line"),
        (b"a\nb\n a\n", ", line 3: expected a new name, got 'a' again"),
        (b"a\n\xff", ": expected UTF-8 text, got "),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    path = tmp_path / "names.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^" + re.escape(f"{path}{message}")):
        read_names(path)


def test_missing_file(tmp_path):
    path = tmp_path / "names.txt"
    with pytest.raises(FileNotFoundError, match=re.escape(f"expected the file {path}, which is")):
        read_names(path)
