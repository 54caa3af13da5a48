"""Builds one archive that installs tritoncapi-harness with a Triton on a machine without a network.

It holds the wheel it is given, the wheels that one needs on the target's Python, NumPy 1, pip, ``install.sh``, and the
part of the Triton in this interpreter's ``nvidia-pytriton`` that the Python backend and the response cache need, laid
out as in a Triton container. The target has the architecture of this machine.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12")  # NumPy 1, which this Triton's Python backend needs, has no wheels for others
NUMPY = "numpy==1.26.4"
STUB = "triton_python_backend_stub"
LIMIT_MIB = 60
LEFT_OUT = ("cuda_core-",)  # cuda-python brings it; nothing here imports it


def main() -> int:
    """Builds the archive; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path, help="the wheel of tritoncapi-harness")
    parser.add_argument("--python", default="3.12", choices=PYTHONS, help="Python of the target (default: 3.12)")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder for the archive (default: dist)")
    arguments = parser.parse_args()
    try:
        archive = bundle(arguments.wheel, arguments.python, arguments.output)
    except BundleError as error:
        say(f"bundle: {error}")
        return 1
    sys.stdout.write(f"{archive}\n")
    return 0


class BundleError(Exception):
    """Why there is no archive."""


def bundle(wheel: Path, python: str, output: Path) -> Path:
    """The path of the new archive, for ``python`` (such as "3.12") on this machine's architecture."""
    version, arch = wheel.name.split("-")[1], platform.machine()
    triton = metadata.distribution("nvidia-pytriton")
    glibc = required_glibc(triton)
    name = f"tritoncapi-harness-{version}-bundle-py{python}-{arch}"
    with tempfile.TemporaryDirectory(prefix="bundle.") as temporary:
        base = Path(temporary) / name
        wheels = base / "wheels"
        wheels.mkdir(parents=True)
        say(f"bundle: fetching the wheels for Python {python}")
        download(wheel, python, glibc, wheels)
        say(f"bundle: laying out Triton from nvidia-pytriton {triton.version}")
        lay_out(Path(str(triton.locate_file(""))), python, base)
        shutil.copy(Path(__file__).with_name("install.sh"), base)
        (base / "install.sh").chmod(0o755)
        licenses(triton, base / "licenses")
        settings = {
            "version": version,
            "python_version": python,
            "arch": arch,
            "glibc": ".".join(str(part) for part in glibc),
            # Installed wheels gain bytecode.
            "installed_kib": (tree_size(base / "opt") + tree_size(wheels) * 5 // 4) // 1024,
        }
        (base / "bundle.conf").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        say("bundle: compressing (a minute or two)")
        return pack(base, output / f"{name}.tar.xz")


def required_glibc(triton: metadata.Distribution) -> tuple[int, int]:
    """The C library that Triton's wheel says it needs."""
    match = re.search(r"^Tag: .*manylinux_(\d+)_(\d+)_(\w+)", triton.read_text("WHEEL") or "", re.MULTILINE)
    if match is None or match[3] != platform.machine():
        raise BundleError(f"nvidia-pytriton {triton.version} is not built for {platform.machine()}")
    return int(match[1]), int(match[2])


def download(wheel: Path, python: str, glibc: tuple[int, int], folder: Path) -> None:
    """Fetches what ``wheel`` needs on the target; stores it and its dependencies without compression."""
    arch = platform.machine()
    platforms = [f"manylinux_{glibc[0]}_{minor}_{arch}" for minor in range(glibc[1], 4, -1)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [f"--abi={abi}" for abi in (f"cp{python.replace('.', '')}", "abi3", "none")]
    command += [f"--platform={name}" for name in (*platforms, f"manylinux2014_{arch}", f"linux_{arch}")]
    with tempfile.TemporaryDirectory(prefix="wheels.") as fetched:
        done = subprocess.run(
            [*command, "--dest", fetched, str(wheel), NUMPY, "pip"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BundleError(f"pip download failed:\n{done.stdout}{done.stderr}")
        for path in sorted(Path(fetched).iterdir()):
            if path.name.startswith(LEFT_OUT):
                continue
            store(path, folder / path.name)


def store(wheel: Path, target: Path) -> None:
    """Writes a copy of a wheel without its tests, not compressed: the archive's compression is better."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            if "/tests/" in member.filename:
                continue
            content = old.read(member)
            if member.filename.endswith(".dist-info/RECORD"):
                content = b"".join(line for line in content.splitlines(keepends=True) if b"/tests/" not in line)
            member.compress_type = zipfile.ZIP_STORED
            new.writestr(member, content)


def lay_out(site: Path, python: str, base: Path) -> None:
    """Copies out of the wheel in ``site`` into base/opt/tritonserver what a container has at /opt/tritonserver."""
    wheel, libraries = site / "pytriton" / "tritonserver", site / "nvidia_pytriton.libs"
    root = base / "opt" / "tritonserver"
    backend, cache, lib = root / "backends" / "python", root / "caches" / "local", root / "lib"
    for folder in (backend, cache, lib, root / "repoagents"):
        folder.mkdir(parents=True)
    shutil.copy(wheel / "backends" / "python" / "libtriton_python.so", backend)
    shutil.copy(wheel / "backends" / "python" / "triton_python_backend_utils.py", backend)
    shutil.copy(wheel / "python_backend_stubs" / python / STUB, backend)
    (backend / STUB).chmod(0o755)
    shutil.copy(wheel / "caches" / "local" / "libtritoncache_local.so", cache)
    server = next(libraries.glob("libtritonserver-*.so"))
    for library in closure([server, *backend.glob("*.so"), backend / STUB, *cache.iterdir()], libraries):
        shutil.copy(library, lib)
    (lib / "libtritonserver.so").symlink_to(server.name)
    # The wheel's libraries look for their siblings four folders up, in nvidia_pytriton.libs.
    (base / "nvidia_pytriton.libs").symlink_to("opt/tritonserver/lib")


def closure(files: list[Path], libraries: Path) -> list[Path]:
    """The files of ``libraries`` that ``files`` need, directly or not; those that lie in it themselves too."""
    found: dict[str, Path] = {}
    todo = list(files)
    while todo:
        file = todo.pop()
        if file.parent == libraries:
            found[file.name] = file
        todo += [libraries / name for name in needed(file) if name not in found and (libraries / name).exists()]
    return [found[name] for name in sorted(found)]


def needed(file: Path) -> list[str]:
    """The names of the libraries that an ELF file is linked to."""
    try:
        done = subprocess.run(["readelf", "-d", file], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BundleError(f"readelf (binutils) cannot read {file}: {error}") from error
    return re.findall(r"\(NEEDED\).*\[(.+)\]", done.stdout)


def licenses(triton: metadata.Distribution, folder: Path) -> None:
    """Copies Triton's licence; the wheels carry their own."""
    folder.mkdir()
    for file in triton.files or ():
        if file.parent.match("nvidia_pytriton-*.dist-info/licenses"):
            shutil.copy(Path(str(file.locate())), folder / f"nvidia-pytriton-{file.name}")


def tree_size(folder: Path) -> int:
    """Bytes of the files under ``folder``."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def pack(base: Path, archive: Path) -> Path:
    """Packs the folder ``base`` under its own name. Python's tarfile unpacks it where tar has no xz."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f"{archive.name}.{os.getpid()}")
    try:
        with tarfile.open(partial, "w:xz", preset=6) as tar:
            tar.add(base, base.name, filter=anonymous)
        size = partial.stat().st_size / 2**20
        if size >= LIMIT_MIB:
            raise BundleError(f"the archive has {size:.1f} MiB; it must stay under {LIMIT_MIB}")
        partial.replace(archive)
    finally:
        partial.unlink(missing_ok=True)
    say(f"bundle: {size:.1f} MiB")
    return archive


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leaves out who built the archive."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def say(line: str) -> None:
    """One line for who waits."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
