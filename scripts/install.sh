#!/bin/sh
# Makes .venv: the pinned packages, this plugin from its checkout, and SGLang patched. Safe to repeat.
# PYTHON names the interpreter to make it with; by default the first Python 3.11 found.
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
SGLANG=sglang==0.5.23

is_311() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3.11 python3}; do
        if is_311 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 (tried ${PYTHON:-python3.11 python3}): install it, or name it: PYTHON=/path/to/python3.11" >&2
    return 1
}

uv_pip() {
    action=$1
    shift
    .venv/bin/uv pip "$action" --quiet --python .venv/bin/python "$@"
}

if ! .venv/bin/uv --version 2>/dev/null | grep -qF "uv $UV_VERSION"; then
    python=$(find_python)
    "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall "uv==$UV_VERSION"
fi

echo "installing the pinned packages into .venv (10 GB of disk, shared with the cache of uv) ..."
uv_pip install -r requirements.lock
uv_pip install --no-deps -e .

# After an edit of the patches, what an earlier run applied is neither stock nor patched: start from the release.
# uv leaves behind the files that the patches created, so the package goes as a folder.
status=0
.venv/bin/python -m sglang_mezo_plugin.patch check >/dev/null 2>&1 || status=$?
if [ "$status" -eq 2 ]; then
    uv_pip uninstall sglang
    rm -rf .venv/lib/python3.11/site-packages/sglang
    uv_pip install --no-deps "$SGLANG"
fi
.venv/bin/python -m sglang_mezo_plugin.patch apply
touch .venv/.installed
