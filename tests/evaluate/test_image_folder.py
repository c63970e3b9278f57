from dyngraph.data import FolderSegmentation, generate_folder
from dyngraph.evaluate.image_folder import find_images


def test_what_macos_writes_beside_images_is_none(tmp_path):
    generate_folder(tmp_path, num_train=2, num_val=2, progress=False)
    images = find_images(tmp_path / "images/val")
    for path in images:
        path.with_name(f"._{path.name}").write_bytes(b"no image")
    assert find_images(tmp_path / "images/val") == images
    assert FolderSegmentation(tmp_path, "val").image_paths == images
