"""An environment of its own for each engine, under a cache outside of the repository.

Python engines have a virtual environment of the versions that their `requirements.txt` names; Java
ones have the jars that `jars.txt` names by Maven coordinates, fetched by jgo as Kafka's own are,
and classes compiled by `javac`. Both are made when they are first asked for, and again when those
files change.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

__all__ = ["HERE", "MissingError", "class_path", "jars", "python", "versions"]

HERE = Path(__file__).parent


class MissingError(Exception):
    """This machine lacks what an engine needs; says what."""


def python(engine: str, cache: Path) -> Path:
    """The interpreter that has what benchmarks/engines/<engine>/requirements.txt names."""
    wanted = HERE / engine / "requirements.txt"
    home = cache / "environments" / f"{engine}-{_digest(wanted)}"
    interpreter = home / "bin" / "python"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        _uv("venv", "--quiet", "--python", sys.executable, str(home))
        _uv("pip", "install", "--quiet", "--python", str(interpreter), "-r", str(wanted))
        (home / "complete").touch()
    return interpreter


def jars(engine: str, cache: Path) -> list[Path]:
    """The jars of benchmarks/engines/<engine>/jars.txt with all that they need."""
    import jgo

    wanted = HERE / engine / "jars.txt"
    listing = cache / "environments" / f"{engine}-{_digest(wanted)}.jars"
    if not listing.exists():
        logging.getLogger("jgo").setLevel(logging.ERROR)
        endpoint = "+".join(_lines(wanted))
        found = [str(artifact.resolve()) for artifact in jgo.resolve(endpoint)]
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(found) + "\n")
    return [Path(line) for line in listing.read_text().splitlines()]


def class_path(engine: str, cache: Path) -> str:
    """A class path of the jars, and of what benchmarks/engines/<engine>/*.java compiles to."""
    sources = sorted((HERE / engine).glob("*.java"))
    found = jars(engine, cache)
    compiler = shutil.which("javac")
    if compiler is None:
        raise MissingError("no javac on PATH: a JDK of 17 or newer compiles it")
    classes = cache / "environments" / f"{engine}-{_digest(*sources)}.classes"
    path = ":".join(map(str, found))
    if not classes.exists():
        fresh = classes.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        subprocess.run(
            [compiler, "-d", str(fresh), "-cp", path, *map(str, sources)], check=True, timeout=120
        )
        fresh.rename(classes)
    return f"{classes}:{path}"


def versions(engine: str) -> dict[str, str]:
    """What stands in requirements.txt and jars.txt, by package; streamsvc's own is installed."""
    found = {}
    for line in _lines(HERE / engine / "requirements.txt"):
        name, _, number = line.partition("==")
        found[name.partition("[")[0]] = number
    for line in _lines(HERE / engine / "jars.txt"):
        _, name, number = line.split(":")
        found[name] = number
    return found or {"streamsvc": version("streamsvc")}


def _lines(file: Path) -> list[str]:
    if not file.exists():
        return []
    lines = (line.partition("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _uv(*arguments: str) -> None:
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([str(uv), *arguments], check=True, timeout=600)
