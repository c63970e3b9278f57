import pytest

from dyngraph.data import generate_folder


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Pictures of one's own and their masks."""
    folder = tmp_path_factory.mktemp("set")
    generate_folder(folder, num_train=2, num_val=2, progress=False)
    return folder
