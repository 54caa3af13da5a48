"""What Triton makes outside a run's folder, whatever TMPDIR says; apart, so that the parent need not load Triton."""

from __future__ import annotations

LITTER = {"/tmp/python_env_*": "libtriton_python.so"}
"""Glob pattern -> the library that makes it: the Python backend unpacks environments there."""
