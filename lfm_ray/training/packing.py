"""What is sent to a worker of Ray, which perhaps cannot import what it is made of."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from ray import cloudpickle

from lfm_ray import own_parts, trust
from lfm_ray.errors import UserError


@dataclass(frozen=True)
class Packed:
    """A value as bytes, so that it is the worker's own code that opens it, and can say what is missing.

    parts: of other packages, which may run there (`lfm_ray.trust`). imported: those that are imported here.
    """

    content: bytes
    parts: frozenset[str]
    imported: dict[str, str]

    @classmethod
    def of(cls, value: Any) -> Packed:
        """Anything that can be pickled."""
        return cls(cloudpickle.dumps(value), trust.asked(), own_parts.imported())

    def open(self) -> Any:
        """The value again.

        Raises:
            UserError: a part cannot be imported here; names it and the node.
        """
        trust.ask(self.parts)
        for name, what in self.imported.items():
            own_parts.note(what, name)
        try:
            return cloudpickle.loads(self.content)
        except Exception as error:  # whatever somebody's module raises
            reason = own_parts.cannot_be_imported(self.imported) or own_parts.one_line(error)
            raise UserError(
                f"on a worker of Ray (node {socket.gethostname()}) {reason}; install its package on every node, or let"
                " PYTHONPATH name its folder before Ray starts (docs/extending.md)"
            ) from None
