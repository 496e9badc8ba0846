#!/bin/sh
# The patch series as a git branch, to edit it: each patch is a commit on top of the release.
#
#   scripts/series.sh open DIR    unpack the release's wheel into DIR and apply patches/ there as commits
#   scripts/series.sh save DIR    write the commits of DIR back into patches/
#
# In DIR, PYTHONPATH=DIR/python runs the branch with the packages of .venv, without touching them.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python="$root/.venv/bin/python"
SGLANG=sglang==0.5.23

usage() {
    sed -n '2,7p' "$0" | cut -c3- >&2
    exit 2
}

open_series() {
    if [ -e "$1" ]; then
        echo "error: $1 exists: name a folder that does not" >&2
        exit 2
    fi
    mkdir -p "$1"
    "$root/.venv/bin/uv" pip install --quiet --python "$python" --no-deps --link-mode copy \
        --target "$1/python" "$SGLANG"
    cd "$1"
    git init --quiet .
    git config user.name sglang-mezo
    git config user.email sglang-mezo@localhost
    printf '__pycache__/\n/python/*.dist-info/\n/python/bin/\n/python/.lock\n' >.git/info/exclude
    git add --all --force python/sglang
    git commit --quiet --message "$SGLANG"
    git tag release
    git am --quiet --keep-non-patch "$root"/patches/*.patch
    git log --oneline release..
}

save_series() {
    rm -f "$root"/patches/*.patch
    git -C "$1" format-patch --quiet --full-index --no-renames --no-signature --zero-commit --no-stat --no-numbered \
        --filename-max-length=100 \
        --output-directory "$root/patches" release..
    ls "$root/patches"
}

[ $# -eq 2 ] || usage
case $1 in
open) open_series "$2" ;;
save) save_series "$2" ;;
*) usage ;;
esac
