#!/bin/sh
# Makes .venv and installs this checkout into it (editable, with Triton and the tools), unless that is done already.
# $PYTHON names the interpreter; without it the first fitting one on PATH is taken.
set -eu
cd "$(dirname "$0")/.."
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH
here=$(pwd -P)
python=.venv/bin/python
stamp=.venv/.ready
log=.venv/setup.log

fail() {
    echo "setup: $1" >&2
    exit 1
}

# Triton's wheel pins NumPy 1, which has no wheels for Python 3.13.
fits() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

makes_venvs() {
    fits "$1" && "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

base() {
    "$1" -c 'import os, sys; print(os.path.realpath(sys.base_prefix), sys.version_info[:3])'
}

# A .venv that came along with a copied or moved checkout runs and installs into the other one.
venv_is_good() {
    fits "$python" && head -n 3 .venv/bin/pip 2>/dev/null | grep -qF "$here/.venv/bin/" &&
        { [ -z "${PYTHON:-}" ] || [ "$(base "$PYTHON")" = "$(base "$python")" ]; }
}

# Python files are not among them: the editable install finds new ones by itself.
changed() {
    find pyproject.toml CMakeLists.txt tritoncapi model_repos -newer "$stamp" \
        \( -name pyproject.toml -o -name CMakeLists.txt -o -name '*.[ch]' -o -name '*.map' \) | head -n 1
}

choose() {
    if [ -n "${PYTHON:-}" ]; then
        makes_venvs "$PYTHON" || fail "PYTHON=$PYTHON does not run, is no Python 3.10 to 3.12, or cannot make virtual environments"
        echo "$PYTHON"
        return
    fi
    for candidate in python3.12 python3.11 python3.10 python3; do
        if makes_venvs "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.10 to 3.12 that can make virtual environments on PATH (Debian, Ubuntu: apt install python3-venv), or give PYTHON="
}

if [ -n "${PYTHON:-}" ] && ! fits "$PYTHON"; then
    fail "PYTHON=$PYTHON does not run or is no Python 3.10 to 3.12"
fi
good=no
if venv_is_good; then
    good=yes
    if [ -e "$stamp" ] && [ -z "$(changed)" ]; then
        exit 0
    fi
fi

if [ -z "${CC:-}" ] && ! command -v cc >/dev/null && ! command -v gcc >/dev/null && ! command -v clang >/dev/null; then
    fail "no C compiler (cc, gcc or clang) on PATH (Debian, Ubuntu: apt install gcc libc6-dev)"
fi

if [ $good = no ]; then
    chosen=$(choose)
    echo "setup: making .venv with $chosen ($("$chosen" -c 'import platform; print(platform.python_version())'))"
    "$chosen" -m venv --clear .venv || fail "$chosen cannot make .venv"
fi
echo "setup: installing into .venv (the first time it fetches some hundred MB)"
: >"$stamp.new"
"$python" -m pip --disable-pip-version-check install -e '.[server,dev]' >"$log" 2>&1 || {
    cat "$log" >&2
    fail "pip install failed; its output is above and in $log"
}
# pytest wants to rewrite the modules of its plugins, and warns of the editable install's, which is imported before it.
for finder in .venv/lib/python3*/site-packages/_editable_*harness.py; do
    if [ -e "$finder" ] && ! grep -q PYTEST_DONT_REWRITE "$finder"; then
        printf '"""PYTEST_DONT_REWRITE"""\n' | cat - "$finder" >"$finder.new" && mv "$finder.new" "$finder"
    fi
done
mv "$stamp.new" "$stamp"
