"""How Triton lets us in: TLS, the header of its restricted protocols, and what a refusal means."""

from __future__ import annotations

from typing import Any

from streamsvc.errors import ConfigurationError
from streamsvc.links import triton_link
from streamsvc.settings import Settings

__all__ = ["check_link", "is_restricted", "protocol_headers", "restricted", "tls_options"]


def tls_options(settings: Settings) -> dict[str, Any]:
    """What every client of tritonclient takes for TLS.

    Raises ConfigurationError for certificates that cannot be read.
    """
    link = triton_link(settings)
    if not link.tls:
        return {}
    link.context()  # gRPC would not say which setting names the file
    return {
        "ssl": True,
        "root_certificates": str(link.ca),
        "certificate_chain": None if link.cert is None else str(link.cert),
        "private_key": None if link.key is None else str(link.key),
    }


def protocol_headers(settings: Settings) -> dict[str, str]:
    """What calls of restricted protocols carry; model control may be one of them."""
    if settings.triton_restricted_key is None:
        return {}
    key, _, value = settings.triton_restricted_key.get_secret_value().partition("=")
    return {f"triton-grpc-protocol-{key}": value}


def check_link(settings: Settings) -> None:
    """Raise what is wrong with TLS between us and a Triton; nothing if it is away.

    gRPC reports that like a server that is not there, which a scoring worker could do without.
    """
    for address in settings.triton_addresses:
        host, _, port = address.rpartition(":")
        fault = triton_link(settings).fault(host, int(port))
        if fault is not None:
            raise fault


def is_restricted(message: str) -> bool:
    """Whether Triton refused a call because its header was missing or wrong."""
    return "protocol is restricted" in message


def restricted(settings: Settings, message: str) -> ConfigurationError:
    """That refusal as a sentence."""
    wrong = "has another value" if settings.triton_restricted_key else "is not set"
    return ConfigurationError(
        f"Triton at {settings.triton_grpc_url} restricts the control of its models, and "
        f"triton_restricted_key {wrong}: {message}."
    )
