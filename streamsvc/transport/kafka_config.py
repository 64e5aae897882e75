"""One set of settings for the three Kafka clients: aiokafka, Faust and librdkafka.

Paths are kept as paths until the last moment, because an `ssl.SSLContext` cannot be turned back
into the file names that librdkafka wants.
"""

from __future__ import annotations

import logging
import ssl
from typing import Any

from streamsvc.links import kafka_link
from streamsvc.settings import Settings

__all__ = ["aiokafka_config", "broker_urls", "faust_credentials", "librdkafka_config"]

SCHEME = "streamsvc"

log = logging.getLogger("librdkafka")


class _LibrdkafkaLog:
    """What librdkafka says, at level debug.

    It would write on stderr by itself, for each attempt at a broker that is away. Whatever a caller
    can do something about reaches them as an error.
    """

    @staticmethod
    def log(_level: int, message: str, *arguments: object) -> None:
        """Stands in for `logging.Logger.log`, which confluent_kafka calls from `poll`."""
        log.debug(message, *arguments)


def _protocol(settings: Settings) -> str:
    sasl = "SASL_" if settings.kafka_sasl_mechanism else ""
    return sasl + ("SSL" if kafka_link(settings).tls else "PLAINTEXT")


def _ssl_context(settings: Settings) -> ssl.SSLContext | None:
    link = kafka_link(settings)
    return link.context() if link.tls else None


def broker_urls(settings: Settings) -> list[str]:
    """The bootstrap servers as Faust broker URLs of our transport."""
    servers = settings.kafka_bootstrap_servers.split(",")
    return [f"{SCHEME}://{server.strip()}" for server in servers]


def aiokafka_config(settings: Settings) -> dict[str, Any]:
    """Keyword arguments that AIOKafkaConsumer, AIOKafkaProducer and AIOKafkaClient share."""
    config: dict[str, Any] = {
        "bootstrap_servers": [s.strip() for s in settings.kafka_bootstrap_servers.split(",")],
        "security_protocol": _protocol(settings),
        "ssl_context": _ssl_context(settings),
    }
    if settings.kafka_sasl_mechanism:
        assert settings.kafka_sasl_password  # checked by Settings
        config["sasl_mechanism"] = settings.kafka_sasl_mechanism
        config["sasl_plain_username"] = settings.kafka_sasl_username
        config["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    return config


def faust_credentials(settings: Settings) -> Any:
    """What `faust.App(broker_credentials=…)` takes, or None without TLS and SASL."""
    import faust

    context = _ssl_context(settings)
    if settings.kafka_sasl_mechanism:
        assert settings.kafka_sasl_password  # checked by Settings
        return faust.SASLCredentials(
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password.get_secret_value(),
            ssl_context=context,
            mechanism=settings.kafka_sasl_mechanism,
        )
    return faust.SSLCredentials(context) if context else None


def librdkafka_config(settings: Settings) -> dict[str, Any]:
    """Configuration that every confluent_kafka client shares.

    Raises ConfigurationError for certificates that cannot be read.
    """
    _ssl_context(settings)  # librdkafka would not say which setting names the file
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "security.protocol": _protocol(settings),
        "logger": _LibrdkafkaLog,
    }
    for name, path in (
        ("ssl.ca.location", settings.kafka_ssl_ca),
        ("ssl.certificate.location", settings.kafka_ssl_cert),
        ("ssl.key.location", settings.kafka_ssl_key),
    ):
        if path:
            config[name] = str(path)
    if settings.kafka_ssl_key_password:
        config["ssl.key.password"] = settings.kafka_ssl_key_password.get_secret_value()
    if settings.kafka_sasl_mechanism:
        assert settings.kafka_sasl_password  # checked by Settings
        config["sasl.mechanism"] = settings.kafka_sasl_mechanism
        config["sasl.username"] = settings.kafka_sasl_username
        config["sasl.password"] = settings.kafka_sasl_password.get_secret_value()
    return config
