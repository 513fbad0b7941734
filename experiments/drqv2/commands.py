"""Commands configured by Hydra whose errors are one line and exit code 2."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from replaystore.errors import ReplayStoreError
from replaystore.runtime.extras import needs

WRONG_USE, INTERRUPTED = 2, 130
CONFIG = Path(__file__).parent / "config"

Config = TypeVar("Config")


def typed(config: Any, schema: type[Config]) -> Config:
    """Returns a configuration as an instance of a dataclass, checked against its types.

    Raises:
        OmegaConfBaseException: a value is missing, unknown or of another type.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    return cast(Config, OmegaConf.to_object(OmegaConf.merge(_writable(schema), plain)))


def _writable(schema: type[Any]) -> Any:
    """Returns a configuration of that schema without values, which can be written to.

    OmegaConf makes frozen dataclasses read-only, also inside others. An inner one without a default counts as missing,
    so this function adds it.
    """
    from omegaconf import OmegaConf

    frame = OmegaConf.structured(schema)
    OmegaConf.set_readonly(frame, False)
    for name, kind in get_type_hints(schema).items():
        if is_dataclass(kind):
            frame[name] = _writable(cast(type[Any], kind))
    return frame


def run(config_name: str, schema: type[Config], work: Callable[[Config], None]) -> None:
    """Runs `work` with the configuration of config/`config_name`.yaml and the overrides in `sys.argv`."""
    with needs("experiments.drqv2", "drqv2", in_command=True):
        import hydra
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

    @hydra.main(version_base="1.3", config_path=str(CONFIG), config_name=config_name)
    def main(config: Any) -> None:
        logging.getLogger("absl").setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", message=".*lazy loading.*")
        try:
            work(typed(config, schema))
        except (ReplayStoreError, OSError, OmegaConfBaseException) as err:
            fail(err)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)

    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra's own report would take several lines
    try:
        main()
    except (HydraException, OmegaConfBaseException) as err:
        fail(err)


def fail(err: Exception) -> Any:
    """Ends the process with one line on stderr."""
    text = " ".join(str(err).split()) or type(err).__name__
    print(f"error: {text}", file=sys.stderr)
    sys.exit(WRONG_USE)
