"""Finds a way to render without a display, and names what to install if there is none."""

from __future__ import annotations

import os
import subprocess
import sys

from replaystore.errors import MissingDependency
from replaystore.runtime.extras import install_command, require

_VARIABLE = "MUJOCO_GL"
_HEADLESS = ("egl", "osmesa")
_PROBE_SECONDS = 120.0
_PROBE = """
from dm_control import mujoco
physics = mujoco.Physics.from_xml_string("<mujoco><worldbody><geom size='.1'/></worldbody></mujoco>")
physics.render(8, 8)
"""
_IMPORT_PROBE = "from dm_control import suite"

_working: set[str] = set()


class RenderingUnavailable(MissingDependency):
    """dm_control is installed but finds no OpenGL to render with. The message names what to install."""


def require_dm_control() -> None:
    """Checks that dm_control is installed.

    Raises:
        MissingDependency: dm_control is not installed.
    """
    require("recording episodes", "dmc", "dm_control")


def ensure_rendering() -> str:
    """Makes sure that dm_control can render in this process, and returns its OpenGL backend.

    A value of `MUJOCO_GL` is respected. If it is not set, `egl` and then `osmesa` are tried, and the variable is set to
    the first that works. The trial runs in its own process, because a broken driver may crash it. Call this before
    dm_control is first imported.

    Raises:
        MissingDependency: dm_control is not installed or cannot be imported.
        RenderingUnavailable: dm_control cannot render.
    """
    require_dm_control()
    chosen = os.environ.get(_VARIABLE)
    failures: dict[str, str] = {}
    for backend in (chosen,) if chosen else _HEADLESS:
        if backend not in _working:
            failure = _run(_PROBE, backend)
            if failure is not None:
                failures[backend] = failure
                continue
            _working.add(backend)
        os.environ[_VARIABLE] = backend
        return backend
    import_failure = _run(_IMPORT_PROBE, "disabled")
    if import_failure is not None:
        raise MissingDependency(
            f"recording episodes: expected to import dm_control, found {import_failure!r}; {install_command('dmc')}"
        )
    raise RenderingUnavailable(
        f"rendering with {_VARIABLE}={' or '.join(failures)}: expected a picture, found {failures};"
        f" on Debian or Ubuntu install libegl1 and libgl1-mesa-dri (apt-get install libegl1 libgl1-mesa-dri)"
        f" and set {_VARIABLE}=egl"
    )


def _run(program: str, backend: str) -> str | None:
    """Runs a program with that backend. Returns None if it worked, and the last line of its errors if not."""
    environment = {**os.environ, _VARIABLE: backend}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_PROBE_SECONDS:.0f} s"
    except OSError as err:
        return str(err)
    if done.returncode == 0:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"exit status {done.returncode}"
