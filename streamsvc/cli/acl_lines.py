"""ACLs as the commands that make them, quoted for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from streamsvc.errors import ConfigurationError

if TYPE_CHECKING:
    from streamsvc.agents.topic_acls import Acl

__all__ = ["acl_lines", "chosen_roles"]

Role = TypeVar("Role", bound=str)


def chosen_roles(asked: Sequence[str] | None, known: Mapping[Role, str]) -> list[Role]:
    """The roles asked for, all if none is. Raises ConfigurationError for an unknown one."""
    for name in asked or ():
        if name not in known:
            raise ConfigurationError(f"There is no role {name!r}; there are {', '.join(known)}.")
    return [role for role in known if not asked or role in asked]


def acl_lines(servers: str, principal: str, allowed: Iterable[Acl]) -> Iterator[str]:
    """One command of Kafka's own tools for resources of one kind that allow the same.

    Credentials are those of whoever runs it: they add `--command-config FILE`.
    """

    def kind(acl: Acl) -> tuple[str, bool, tuple[str, ...]]:
        return acl.resource, acl.prefixed, acl.operations

    for (resource, prefixed, operations), alike in groupby(sorted(allowed, key=kind), key=kind):
        words = ["kafka-acls.sh", "--bootstrap-server", servers, "--add"]
        words += ["--allow-principal", principal]
        for operation in operations:
            words += ["--operation", operation]
        for acl in alike:
            words += [f"--{resource}", acl.name]
        yield shlex.join([*words, *(["--resource-pattern-type", "prefixed"] if prefixed else [])])
