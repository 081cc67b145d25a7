"""Installs the peers into ``.venv/peers`` at their first use and whenever their versions change.

They are separate from what Cronpost needs, and ``make clean`` removes them. A peer that cannot be installed (no
``node``, no ``npm``, no network) is not measured, and the tables say why.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(sys.prefix) / "peers"
REQUIREMENTS = Path(__file__).parent / "requirements.txt"
PACKAGE = Path(__file__).parent / "package.json"
OLDEST_NODE = 20
INSTALL_SECONDS = 600


class NotRunError(Exception):
    """This scenario cannot be measured here, or not with this system; the message says why."""


@functools.cache
def python() -> Path:
    """Return the interpreter with the Python peers; installs them if necessary. Raises ``NotRunError``."""
    directory = ROOT / "python"
    program = directory / "bin" / "python"
    stamp = _stamp(REQUIREMENTS, sys.version)
    if _is_current(directory, stamp):
        return program
    try:
        venv.create(directory, clear=True, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotRunError(f"no virtual environment for the peers: {error}") from error
    pip = [str(program), "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    _run([*pip, "install", "--only-binary", ":all:", "-r", str(REQUIREMENTS)], "pip install")
    (directory / "installed").write_text(stamp)
    return program


@functools.cache
def node() -> tuple[Path, Path]:
    """Return the program ``node`` and the directory with the peers' ``node_modules``; installs them if necessary.
    Raises ``NotRunError``."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        raise NotRunError("node and npm are not installed")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    if int(version.lstrip("v").partition(".")[0] or 0) < OLDEST_NODE:
        raise NotRunError(f"node {version} is older than {OLDEST_NODE}")
    directory = ROOT / "node"
    stamp = _stamp(PACKAGE, version)
    if not _is_current(directory, stamp):
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE, directory / "package.json")
        quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
        _run([npm, "install", "--prefix", str(directory), *quiet], "npm install")
        (directory / "installed").write_text(stamp)
    return Path(program), directory


def versions() -> dict[str, str]:
    """Return the pinned versions by package."""
    pinned = dict(
        line.strip().split("==", 1) for line in REQUIREMENTS.read_text().splitlines() if "==" in line and line[0] != "#"
    )
    return {**pinned, **json.loads(PACKAGE.read_text())["dependencies"]}


def _run(command: list[str], name: str) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
            env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
        )
    except subprocess.TimeoutExpired as error:
        raise NotRunError(f"{name} took longer than {INSTALL_SECONDS} s") from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        print(f"\n{name} failed:\n" + "\n".join(lines[-15:]), file=sys.stderr)
        raise NotRunError(f"{name} failed")


def _stamp(path: Path, version: str) -> str:
    return hashlib.sha256(path.read_bytes() + version.encode()).hexdigest()


def _is_current(directory: Path, stamp: str) -> bool:
    installed = directory / "installed"
    return installed.exists() and installed.read_text() == stamp
