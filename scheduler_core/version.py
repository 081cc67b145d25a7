"""The version of Cronpost: what the build, ``cronpost --version`` and the API report."""

from __future__ import annotations

__version__ = "0.1.0.dev0"
