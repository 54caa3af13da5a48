#!/bin/sh
# Installs tritoncapi-harness and a Triton from the unpacked bundle this file lies in. Fetches nothing.
set -eu
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV

fail() {
    echo "install.sh: $1" >&2
    exit 2
}

usage() {
    cat <<END
Usage: install.sh [--prefix DIR] [--python PYTHON]

Installs tritoncapi-harness $version with Triton for Python $python_version on $arch into DIR
(default: ~/.local/share/tritoncapi-harness): DIR/venv, DIR/opt/tritonserver, DIR/bin/tritoncapi-harness.
Installing again into the same DIR replaces what was there.

PYTHON is a Python $python_version, in a virtual environment or not (default: the first such python3,
python$python_version or python on PATH). Its own packages, such as torch, can be imported too, behind the bundle's.
END
}

# Prints what is wrong with interpreter $1, or nothing.
objection() {
    "$1" - "$python_version" "$arch" "$glibc" "$prefix/venv" <<'END' 2>/dev/null || echo "does not run"
import os, platform, sys
wanted, arch, glibc, venv = sys.argv[1:]
version = "%d.%d" % sys.version_info[:2]
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
except (AttributeError, IndexError, OSError, ValueError):
    libc = ""
def number(text):
    return [int(part) for part in text.split(".")[:2]]
if version != wanted:
    print("is Python %s; this bundle is for Python %s" % (version, wanted))
elif sys.implementation.name != "cpython":
    print("is %s; this bundle is for CPython" % sys.implementation.name)
elif platform.machine() != arch or sys.maxsize < 2**32:
    print("is not for %s, which this bundle is for" % arch)
elif not libc:
    print("does not run on the GNU C library, which Triton needs")
elif number(libc) < number(glibc):
    print("runs on the GNU C library %s; Triton needs %s or newer" % (libc, glibc))
elif os.path.realpath(sys.prefix) == os.path.realpath(venv):
    print("is the one that an earlier run of install.sh made")
END
}

source=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
[ -f "$source/bundle.conf" ] || fail "$source is not an unpacked bundle (no bundle.conf in it)"
# version, python_version, arch, glibc, installed_kib
. "$source/bundle.conf"

prefix=${HOME:-}/.local/share/tritoncapi-harness
python=
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
        usage
        exit 0
        ;;
    --prefix=*) prefix=${1#*=} ;;
    --python=*) python=${1#*=} ;;
    --prefix | --python)
        [ $# -ge 2 ] || fail "$1 needs a value"
        if [ "$1" = --prefix ]; then prefix=$2; else python=$2; fi
        shift
        ;;
    *) fail "unknown argument: $1 (see install.sh --help)" ;;
    esac
    shift
done
case $prefix in
'') fail "--prefix is empty" ;;
/*) ;;
*) prefix=$PWD/$prefix ;;
esac

# Triton hands the path of its Python stub to a shell as it is: with such a character models hang while they load.
case $prefix in
*[!A-Za-z0-9/._+,@%=~-]*) fail "$prefix: Triton needs a path of letters, digits and / . _ + , @ % = ~ - alone; give another --prefix" ;;
esac
[ "$(uname -m)" = "$arch" ] || fail "this bundle is for $arch; this machine is $(uname -m)"
if [ -n "$python" ]; then
    command -v "$python" >/dev/null || fail "$python: no such program"
    why=$(objection "$python")
    [ -z "$why" ] || fail "$python $why"
else
    reasons=
    for candidate in python3 "python$python_version" python; do
        command -v "$candidate" >/dev/null || continue
        why=$(objection "$candidate")
        if [ -z "$why" ]; then
            python=$candidate
            break
        fi
        reasons="$reasons; $candidate $why"
    done
    [ -n "$python" ] || fail "no Python $python_version on PATH, give --python${reasons}"
fi
python=$(command -v "$python")

marker=$prefix/.tritoncapi-harness
if [ ! -e "$marker" ]; then
    for taken in venv opt/tritonserver nvidia_pytriton.libs bin/tritoncapi-harness; do
        [ ! -e "$prefix/$taken" ] || fail "$prefix/$taken is there already and not from install.sh; give another --prefix"
    done
fi
{ mkdir -p -- "$prefix" && touch -- "$marker"; } 2>/dev/null || fail "cannot write to $prefix"
prefix=$(CDPATH='' cd -- "$prefix" && pwd)
marker=$prefix/.tritoncapi-harness
free=$(df -Pk -- "$prefix" | awk 'END { print $(NF - 2) }')
# What an earlier run put there is replaced only at the end.
[ "$free" -ge "$installed_kib" ] || fail "no space: $prefix needs $((installed_kib / 1024)) MiB, $((free / 1024)) MiB are free"

log=$prefix/install.log
step() {
    what=$1
    shift
    "$@" >"$log" 2>&1 || {
        cat "$log" >&2
        fail "$what failed; its output is above"
    }
}

echo "Installing tritoncapi-harness $version into $prefix, for $python"
# A new copy is complete before it takes the old one's place.
rm -rf "$prefix/opt/tritonserver.new"
mkdir -p "$prefix/opt" "$prefix/bin"
step "copying Triton" cp -R "$source/opt/tritonserver" "$prefix/opt/tritonserver.new"
rm -rf "$prefix/opt/tritonserver"
mv "$prefix/opt/tritonserver.new" "$prefix/opt/tritonserver"
# Triton's Python backend looks for its libraries four folders up, in nvidia_pytriton.libs.
rm -f "$prefix/nvidia_pytriton.libs"
ln -s opt/tritonserver/lib "$prefix/nvidia_pytriton.libs"

# The bundle's own pip does the work: a host may have none, and no ensurepip.
step "making $prefix/venv" "$python" -m venv --clear --without-pip "$prefix/venv"
set -- "$source"/wheels/pip-*.whl
step "installing the wheels" env PIP_CONFIG_FILE=/dev/null "$prefix/venv/bin/python" "$1/pip" \
    --isolated --disable-pip-version-check install --no-index --no-deps --no-cache-dir "$source"/wheels/*.whl

# What the host's interpreter can import stays importable, behind the bundle's packages.
site=$("$prefix/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -S -c '
import os, sys
sys.path = [path for path in sys.path if path]
before = set(sys.path)
import site
site.main()
for path in sys.path:
    if path not in before and os.path.isdir(path):
        print(path)
' >"$site/zz_host_packages.pth"

wrapper=$prefix/bin/tritoncapi-harness
cat >"$wrapper.new" <<END
#!/bin/sh
unset PYTHONHOME
if [ -z "\${TRITONCAPI_TRITON:-}" ]; then
    TRITONCAPI_TRITON=$prefix/opt/tritonserver
    export TRITONCAPI_TRITON
fi
exec $prefix/venv/bin/tritoncapi-harness "\$@"
END
chmod 755 "$wrapper.new"
mv "$wrapper.new" "$wrapper"
printf '%s\n' "$version" >"$marker"
rm -f "$log"

TRITONCAPI_TRITON="$prefix/opt/tritonserver" "$prefix/venv/bin/python" -I - <<'END' || fail "the installed package does not load its Triton"
import ctypes
import sys

import tritoncapi
from tritoncapi._library import python_library

tritoncapi.load()
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
try:
    ctypes.CDLL(str(python_library() or name))
except OSError:
    print("Note: %s is not there (Debian, Ubuntu: apt install lib%s); models of the Python backend will not start."
          % (name, name[3:].removesuffix(".so.1.0")))
END
cat <<END
Done. Try:
  $wrapper info
  $wrapper demo
In your own programs:
  TRITONCAPI_TRITON=$prefix/opt/tritonserver $prefix/venv/bin/python program.py
END
