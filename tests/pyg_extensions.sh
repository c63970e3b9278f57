#!/bin/sh
# Makes an environment with torch_scatter and torch_sparse on top of the one of $PYTHON.
# Usage: PYTHON=.venv/bin/python sh tests/pyg_extensions.sh .venv-pyg
#
# Both compile from source for one torch version, which takes about 15 minutes on 2 cores, and pip
# would reuse a wheel of another version. So the wheels lie in a folder named after the version.
set -eu
venv=$1
version=$("$PYTHON" -c 'import torch; print(torch.__version__)')
wheels=${XDG_CACHE_HOME:-$HOME/.cache}/dyngraph/wheels/torch-$version

if ! ls "$wheels"/torch_sparse-*.whl >/dev/null 2>&1; then
    mkdir -p "$wheels"
    "$PYTHON" -m pip install --quiet setuptools wheel ninja
    # Built beside their place and moved there: an interrupted build leaves nothing half done.
    partial=$(mktemp -d "$wheels/partial-XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    "$PYTHON" -m pip wheel --quiet --no-cache-dir --no-build-isolation --no-deps \
        --wheel-dir "$partial" torch_scatter torch_sparse
    mv "$partial"/torch_scatter-*.whl "$wheels"
    mv "$partial"/torch_sparse-*.whl "$wheels"
fi

"$PYTHON" -m venv "$venv"
site=$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
"$PYTHON" -c 'import site; print(site.getsitepackages()[0])' >"$site/base.pth"
"$PYTHON" -c 'import dyngraph, pathlib; print(pathlib.Path(dyngraph.__file__).parents[1])' \
    >"$site/dyngraph.pth"
"$venv/bin/pip" install --quiet --no-deps --no-index "$wheels"/torch_scatter-*.whl \
    "$wheels"/torch_sparse-*.whl
"$venv/bin/python" -c 'import scipy' 2>/dev/null || "$venv/bin/pip" install --quiet scipy
