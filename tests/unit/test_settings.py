from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from streamsvc.errors import ConfigurationError
from streamsvc.settings import Settings, explicit_settings, load_settings


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("STREAMSVC_")]:
        monkeypatch.delenv(name)


def endpoints(repo: Path, **values: str) -> None:
    (repo / ".streamsvc").mkdir(exist_ok=True)
    (repo / ".streamsvc" / "endpoints.json").write_text(json.dumps(values))


def test_later_sources_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(tmp_path).kafka_bootstrap_servers == "127.0.0.1:9092"
    endpoints(tmp_path, kafka_bootstrap_servers="stack:1")
    assert load_settings(tmp_path).kafka_bootstrap_servers == "stack:1"
    (tmp_path / "streamsvc.toml").write_text('kafka_bootstrap_servers = "toml:2"\n')
    assert load_settings(tmp_path).kafka_bootstrap_servers == "toml:2"
    monkeypatch.setenv("STREAMSVC_KAFKA_BOOTSTRAP_SERVERS", "environment:3")
    assert load_settings(tmp_path).kafka_bootstrap_servers == "environment:3"
    overridden = load_settings(tmp_path, kafka_bootstrap_servers="argument:4")
    assert overridden.kafka_bootstrap_servers == "argument:4"


@pytest.mark.parametrize("source", ["environment", "streamsvc.toml", ".streamsvc/endpoints.json"])
def test_an_unknown_key_is_an_error_that_suggests_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == "environment":
        monkeypatch.setenv("STREAMSVC_COMMIT_INTERVAL", "5")
    elif source == "streamsvc.toml":
        (tmp_path / source).write_text("commit_interval = 5\n")
    else:
        endpoints(tmp_path, commit_interval="5")
    with pytest.raises(ConfigurationError, match="Did you mean 'commit_interval_ms'") as raised:
        load_settings(tmp_path)
    assert source in str(raised.value)


def test_a_bad_value_names_the_setting_and_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMSVC_KEY_GROUPS", "none")
    with pytest.raises(ConfigurationError, match=r"key_groups \(from environment\)"):
        load_settings(tmp_path)


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    settings = Settings(
        redis_url="rediss://me:hunter2@store:6379/0",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="me",
        kafka_sasl_password="hunter2",
        kafka_ssl_key_password="hunter2",
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings.model_dump())
    assert "hunter2" not in settings.model_dump_json()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kafka_ssl_cert": "cert.pem"}, "needs kafka_ssl_key"),
        ({"kafka_sasl_mechanism": "PLAIN"}, "needs kafka_sasl_username"),
        (
            {"kafka_sasl_mechanism": "PLAIN", "kafka_sasl_username": "me"},
            "needs kafka_sasl_username and kafka_sasl_password",
        ),
        ({"heartbeat_interval_ms": 5_000}, "at most a third"),
        ({"redis_url": "http://store"}, "redis"),
        ({"kafka_sasl_mechanism": "GSSAPI"}, "SCRAM-SHA-256"),
        ({"topic_prefix": "eu/"}, "topic_prefix"),
    ],
)
def test_settings_must_fit_together(
    tmp_path: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_settings(tmp_path, **values)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().key_groups = 3  # type: ignore[misc]


def test_every_setting_is_documented() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name


def test_damaged_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "streamsvc.toml").write_text("key_groups = = 3\n")
    with pytest.raises(ConfigurationError, match=r"streamsvc\.toml is not valid TOML"):
        load_settings(tmp_path)
    (tmp_path / "streamsvc.toml").unlink()
    endpoints(tmp_path)
    (tmp_path / ".streamsvc" / "endpoints.json").write_text('{"redis_url": ')
    with pytest.raises(ConfigurationError, match="damaged"):
        load_settings(tmp_path)


def test_explicit_settings_leave_out_what_the_stack_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints(tmp_path, redis_url="redis://stack:1/0")
    (tmp_path / "streamsvc.toml").write_text("key_groups = 3\n")
    monkeypatch.setenv("STREAMSVC_KAFKA_BOOTSTRAP_SERVERS", "broker:1")
    assert explicit_settings(tmp_path) == {
        "key_groups": "3",
        "kafka_bootstrap_servers": "broker:1",
    }


def test_credentials_do_not_stand_in_the_address_of_the_registry() -> None:
    with pytest.raises(ValueError, match="set schema_registry_username"):
        Settings(schema_registry_url="http://user:pass@registry:8081")
    assert Settings(schema_registry_url="http://registry:8081").schema_registry_url is not None
