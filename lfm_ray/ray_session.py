"""A Ray session: the cluster at an address, or one of this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator

from lfm_ray.errors import UserError
from lfm_ray.interruption import Interrupted, kept_handlers


@contextlib.contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """A Ray session: the cluster at `address`, or one of this machine that ends with the command."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's announced default; silences its notice
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's newer output prints a banner even when told to be silent
    if address and "://" in address:
        raise UserError(
            f"--address {address}: run this on a node of the cluster (--address auto), or by ray job submit"
        )
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        try:
            with kept_handlers():
                ray.init(
                    # "local": None would join whatever cluster happens to run on this machine
                    address=address or "local", include_dashboard=False, log_to_driver=False,
                    logging_level=logging.ERROR, configure_logging=True,
                )  # fmt: skip
        except SystemExit as error:  # Ray's own answer to SIGTERM while it starts
            raise Interrupted(number=signal.SIGTERM) from error
        except ConnectionError:
            raise UserError(
                f"--address {address}: no Ray cluster answers there, or it asks for a token (docs/cluster.md)"
            ) from None
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()
