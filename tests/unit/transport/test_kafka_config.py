from __future__ import annotations

import logging
import time

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from faust import SASLCredentials
from support.certificates import Authority

from streamsvc.errors import ConfigurationError
from streamsvc.settings import Settings
from streamsvc.transport.kafka_config import (
    aiokafka_config,
    broker_urls,
    faust_credentials,
    librdkafka_config,
)

SASL = {
    "kafka_sasl_mechanism": "SCRAM-SHA-512",
    "kafka_sasl_username": "u",
    "kafka_sasl_password": "p",
}


def test_plaintext():
    settings = Settings(kafka_bootstrap_servers="a:1, b:2")
    assert broker_urls(settings) == ["streamsvc://a:1", "streamsvc://b:2"]
    assert aiokafka_config(settings)["bootstrap_servers"] == ["a:1", "b:2"]
    assert aiokafka_config(settings)["security_protocol"] == "PLAINTEXT"
    assert faust_credentials(settings) is None
    assert librdkafka_config(settings)["security.protocol"] == "PLAINTEXT"


@pytest.mark.parametrize("kind", [Producer, Consumer, AdminClient])
def test_what_librdkafka_says_goes_to_the_log_and_not_to_the_terminal(kind, caplog, capfd):
    caplog.set_level(logging.DEBUG, "librdkafka")
    nobody = Settings(kafka_bootstrap_servers="127.0.0.1:1")
    client = kind(librdkafka_config(nobody) | ({"group.id": "g"} if kind is Consumer else {}))
    deadline = time.monotonic() + 30
    while not caplog.records and time.monotonic() < deadline:
        client.poll(0.05)
    assert "Connection refused" in caplog.records[0].getMessage()
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert capfd.readouterr().err == ""


def test_sasl_reaches_every_client():
    settings = Settings(**SASL)
    aio, rd, faust = (f(settings) for f in (aiokafka_config, librdkafka_config, faust_credentials))
    assert (aio["security_protocol"], rd["security.protocol"]) == ("SASL_PLAINTEXT",) * 2
    assert (aio["sasl_plain_username"], aio["sasl_plain_password"]) == ("u", "p")
    assert (rd["sasl.username"], rd["sasl.password"]) == ("u", "p")
    assert isinstance(faust, SASLCredentials)
    assert (faust.username, faust.password) == ("u", "p")
    assert aio["sasl_mechanism"] == rd["sasl.mechanism"] == faust.mechanism.value


def test_tls_keeps_paths_for_librdkafka(tmp_path):
    authority = Authority(tmp_path)
    certificate, key = authority.issue("client")
    settings = Settings(
        kafka_ssl_ca=authority.certificate,
        kafka_ssl_cert=certificate,
        kafka_ssl_key=key,
        kafka_ssl_key_password="secret",
        **SASL,
    )
    config = librdkafka_config(settings)
    assert config["security.protocol"] == "SASL_SSL"
    assert config["ssl.ca.location"] == str(authority.certificate)
    assert config["ssl.certificate.location"] == str(certificate)
    assert config["ssl.key.location"] == str(key)
    assert config["ssl.key.password"] == "secret"


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_certificate_that_cannot_be_read_names_the_settings(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    for client in (aiokafka_config, faust_credentials, librdkafka_config):
        with pytest.raises(ConfigurationError, match="kafka_ssl_ca"):
            client(Settings(kafka_ssl_ca=path))
