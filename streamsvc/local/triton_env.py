"""Triton's own Python environment, made once per user and shared by all repos.

The server comes in the nvidia-pytriton wheel. Its Python backend embeds an interpreter and reads
NumPy 1 arrays only, so it cannot live in the project's environment: it gets one of its own, from
`triton.lock`, named after the lock's content so that a new lock makes a new environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from streamsvc.errors import UnavailableError
from streamsvc.local.paths import cache_dir, read_json, write_json
from streamsvc.local.report import Report
from streamsvc.local.service import elsewhere

__all__ = ["LOCK", "TritonEnvironment", "cannot_run", "ready_environment"]

LOCK = Path(__file__).with_name("triton.lock")

MIN_GLIBC = (2, 35)
# NumPy 1 has wheels up to Python 3.12.
PYTHONS = ((3, 11), (3, 12))


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """Where the parts of an installed server lie."""

    root: Path
    python_libraries: str
    """Directory of the shared libpython that the Python backend loads."""

    @property
    def venv(self) -> Path:
        """The virtual environment that models run in."""
        return self.root / "venv"

    @property
    def site_packages(self) -> Path:
        """Its packages."""
        return next((self.venv / "lib").glob("python3.*")) / "site-packages"

    @property
    def server(self) -> Path:
        """The `tritonserver` directory of the wheel."""
        return self.site_packages / "pytriton" / "tritonserver"

    @property
    def backends(self) -> Path:
        """Backends laid out as the server wants them."""
        return self.root / "backends"


def cannot_run() -> str | None:
    """Why Triton's wheel cannot run on this machine; None if nothing speaks against it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"its wheel is for Linux on x86-64, and this is {sys.platform} {platform.machine()}"
    library, version = platform.libc_ver()
    if library != "glibc" or tuple(map(int, version.split(".")[:2])) < MIN_GLIBC:
        needed = ".".join(map(str, MIN_GLIBC))
        return f"it needs glibc {needed} or newer, and this is {library or 'no glibc'} {version}"
    return None


def ready_environment(report: Report) -> TritonEnvironment:
    """The environment, installed if it was not. Needs no network once it is there.

    Raises UnavailableError if it cannot run here or cannot be installed.
    """
    reason = cannot_run()
    if reason is not None:
        raise UnavailableError(f"Triton cannot run here: {reason}. {elsewhere('triton_grpc_url')}")
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    root = cache_dir() / "triton" / f"{digest}-py{sys.version_info[0]}{sys.version_info[1]}"
    root.mkdir(parents=True, exist_ok=True)
    with _exclusive(root / "lock"):
        installed = read_json(root / "installed.json")
        if not installed:
            with report.working("Installing Triton (about 400 MB, once per user)"):
                installed = {"python_libraries": _install(root)}
            # Written last: an installation that was cut short has no such file.
            write_json(root / "installed.json", installed)
    return TritonEnvironment(root, str(installed["python_libraries"]))


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _install(root: Path) -> str:
    venv, backends = root / "venv", root / "backends"
    for rest in (venv, backends):
        shutil.rmtree(rest, ignore_errors=True)
    _make_venv(venv)
    _uv("pip", "sync", "--quiet", "--require-hashes", "--python", str(venv), str(LOCK))
    version, libraries = _ask(venv)
    server = TritonEnvironment(root, libraries).server
    shutil.copytree(server / "backends" / "python", backends / "python")
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy2(stub, backends / "python")
    return libraries


def _make_venv(venv: Path) -> None:
    """An environment of this interpreter if its library can be embedded, else of one uv brings.

    Distributions split the shared libpython off into a package of its own, often not installed.
    """
    name = str(sysconfig.get_config_var("INSTSONAME"))
    library = Path(str(sysconfig.get_config_var("LIBDIR"))) / name
    if sys.version_info[:2] in PYTHONS and ".so" in name and library.exists():
        _uv("venv", "--quiet", "--python", sys.executable, str(venv))
        return
    try:
        _uv("venv", "--quiet", "--python", "3.12", "--managed-python", str(venv))
    except UnavailableError as error:
        raise UnavailableError(
            "Triton embeds Python 3.11 or 3.12 as a shared library, which this Python lacks "
            f"(on Debian and Ubuntu: apt install libpython3.12). {error}"
        ) from error


def _ask(venv: Path) -> tuple[str, str]:
    """The environment's Python version ("3.11") and the directory of its shared library."""
    code = (
        "import sys, sysconfig; print('%d.%d' % sys.version_info[:2]); "
        "print(sysconfig.get_config_var('LIBDIR')); print(sys.base_prefix)"
    )
    told = subprocess.run(
        [str(venv / "bin" / "python"), "-c", code], capture_output=True, text=True, check=True
    )
    version, declared, prefix = told.stdout.splitlines()
    # A relocated interpreter declares the directory that it was built in.
    here = Path(prefix) / "lib"
    found = next((d for d in (Path(declared), here) if any(d.glob("libpython3.*.so*"))), here)
    return version, str(found)


def _uv(*arguments: str) -> None:
    program = _find_uv()
    # The project's own environment must not be mistaken for the one that is being made.
    environment = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode != 0:
        said = " ".join(line.strip() for line in done.stderr.strip().splitlines()[-4:])
        raise UnavailableError(
            f"Triton cannot be installed (uv {arguments[0]}: {said}). "
            f"{elsewhere('triton_grpc_url')}"
        )


def _find_uv() -> str:
    if find_spec("uv") is not None:
        import uv

        return str(uv.find_uv_bin())
    found = shutil.which("uv")
    if found is None:
        raise UnavailableError(
            "Triton's environment is made by the package uv, which is not installed "
            f"(pip install 'streamsvc[local]'). {elsewhere('triton_grpc_url')}"
        )
    return found
