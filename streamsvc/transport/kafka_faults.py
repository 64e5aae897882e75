"""Why Kafka does not let us in, or lets us do less than we need, for a person.

aiokafka and librdkafka only say that no broker answers. So whoever gets no answer asks here, and
the connection is tried once more, step by step: TLS, then SASL.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import SaslHandShakeRequest

from streamsvc.errors import ConfigurationError, StreamsvcError, UnavailableError
from streamsvc.links import kafka_link
from streamsvc.settings import Settings
from streamsvc.transport.kafka_config import aiokafka_config

__all__ = ["forbidden", "not_allowed", "unanswered", "why_refused"]

_PATIENCE_S = 5.0
_UNSUPPORTED_SASL_MECHANISM = 33
_REFUSED = (AuthenticationFailedError, SaslAuthenticationFailed)
_FORBIDDEN = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)


def unanswered(settings: Settings, error: object) -> StreamsvcError:
    """What to raise when no broker has answered: the reason, if one is to be found."""
    return why_refused(settings) or UnavailableError(
        f"No Kafka broker answers at {settings.kafka_bootstrap_servers}: {error}"
    )


def why_refused(settings: Settings) -> StreamsvcError | None:
    """What is wrong with our certificates or credentials; None if it is something else.

    Blocks for some seconds at most, and may be called where an event loop runs.
    """
    with ThreadPoolExecutor(1) as thread:
        for host, port, _ in collect_hosts(settings.kafka_bootstrap_servers, randomize=False):
            fault = kafka_link(settings).fault(host, port)
            if fault is None:
                fault = thread.submit(asyncio.run, _login(settings, host, port)).result()
            if fault is not None:
                return fault
    return None


async def _login(settings: Settings, host: str, port: int) -> StreamsvcError | None:
    where = f"Kafka at {host}:{port}"
    config = aiokafka_config(settings)
    del config["bootstrap_servers"]
    try:
        async with asyncio.timeout(_PATIENCE_S):
            connection: Any = await create_conn(host, port, **config)
            try:
                if not settings.kafka_sasl_mechanism:
                    return await _must_log_in(connection, where)
            finally:
                connection.close()
    except UnsupportedSaslMechanismError as error:
        return ConfigurationError(f"{where}: {error}. Look at kafka_sasl_mechanism.")
    except _REFUSED as error:
        return ConfigurationError(
            f"{where} refuses user {settings.kafka_sasl_username!r} ({error}): look at "
            "kafka_sasl_username, kafka_sasl_password and kafka_sasl_mechanism."
        )
    except (KafkaError, OSError, TimeoutError):
        return None
    return None


async def _must_log_in(connection: Any, where: str) -> StreamsvcError | None:
    """Whether the broker wants SASL, which we do not do."""
    answer = await connection.send(SaslHandShakeRequest("NONE"))
    if answer.error_code != _UNSUPPORTED_SASL_MECHANISM:
        return None
    known = ", ".join(answer.enabled_mechanisms)
    return ConfigurationError(
        f"{where} lets in only who logs in ({known}): set kafka_sasl_mechanism, "
        "kafka_sasl_username and kafka_sasl_password."
    )


def not_allowed(user: str | None, what: str) -> ConfigurationError:
    """Kafka's ACLs do not let this user do something."""
    return ConfigurationError(
        f"Kafka does not allow {f'user {user!r}' if user else 'us'} what is needed: {what}. "
        "`streamsvc topics acls` prints the ACLs of every role."
    )


def forbidden(user: str | None, error: BaseException) -> ConfigurationError | None:
    """An error of aiokafka as that sentence, if it is one of authorization."""
    return not_allowed(user, str(error)) if isinstance(error, _FORBIDDEN) else None
