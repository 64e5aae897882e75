"""One frozen settings object, read once at the composition root and passed down.

Later sources win: defaults, the local stack's endpoints (`.streamsvc/endpoints.json`, written by
`streamsvc up`), `streamsvc.toml` in the repo directory, `STREAMSVC_*` environment variables.

>>> Settings(kafka_bootstrap_servers="broker:9092").kafka_bootstrap_servers
'broker:9092'
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    HttpUrl,
    RedisDsn,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from streamsvc.errors import ConfigurationError

__all__ = [
    "DATA_DIR",
    "ENDPOINTS_FILE",
    "ENV_PREFIX",
    "TOML_FILE",
    "Settings",
    "explicit_settings",
    "load_settings",
    "redis_nodes",
]

ENV_PREFIX = "STREAMSVC_"
TOML_FILE = "streamsvc.toml"
DATA_DIR = ".streamsvc"
ENDPOINTS_FILE = f"{DATA_DIR}/endpoints.json"


class Settings(BaseSettings):
    """Every setting, its unit and its default. An unknown key is an error."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    # --- Kafka -----------------------------------------------------------------------------
    kafka_bootstrap_servers: str = "127.0.0.1:9092"
    """Brokers to start from, `host:port` separated by commas."""
    kafka_ssl_ca: Path | None = None
    """PEM file with the certificate authority of the brokers; turns TLS on."""
    kafka_ssl_cert: Path | None = None
    """PEM file with our certificate, for mutual TLS."""
    kafka_ssl_key: Path | None = None
    """PEM file with the private key of `kafka_ssl_cert`."""
    kafka_ssl_key_password: SecretStr | None = None
    """Password of `kafka_ssl_key`."""
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """SASL mechanism; turns SASL on."""
    kafka_sasl_username: str | None = None
    """SASL user."""
    kafka_sasl_password: SecretStr | None = None
    """SASL password."""
    topic_prefix: str = Field("", pattern=r"^[a-zA-Z0-9._-]*$")
    """Put before the name of every topic that streamsvc itself creates for internal use, and of its
    consumer groups."""
    topic_replication_factor: int = Field(1, ge=1)
    """Replicas of every topic that streamsvc creates. Use 3 in production."""
    topic_partitions: int = Field(4, ge=1)
    """Partitions of the event, request, prediction, served-log and dead-letter topics that
    streamsvc creates where they are missing."""
    key_groups: int = Field(8, ge=1, le=1024)
    """Destinations of the shuffle, which bounds how many workers share one view."""
    session_timeout_ms: int = Field(10_000, ge=1_000)
    """Milliseconds without a heartbeat after which a worker is taken for dead."""
    heartbeat_interval_ms: int = Field(500, ge=50)
    """Milliseconds between heartbeats of a worker."""

    # --- Schema registry -------------------------------------------------------------------
    schema_registry_url: str | None = None
    """`http://` or `https://` address of the Schema Registry whose ids records carry, for sources
    with the tag `streamsvc.framing`."""
    schema_registry_username: str | None = None
    """User for the registry (basic authentication)."""
    schema_registry_password: SecretStr | None = None
    """Password of `schema_registry_username`."""
    schema_registry_ssl_ca: Path | None = None
    """PEM file with the certificate authority of the registry, for `https://`."""
    schema_registry_patience_s: float = Field(60.0, ge=0)
    """Seconds that records wait for a registry that does not answer before the worker stops."""

    # --- Online store ----------------------------------------------------------------------
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """`redis://[user:password@]host:port/db`, or `rediss://` for TLS. The user is an ACL user. Of a
    cluster it names one node or several: `redis://host:port,host:port`."""
    redis_cluster: bool = False
    """Whether the store is a Redis Cluster (`redis_type: redis_cluster` in Feast's own terms)."""
    redis_failover_s: float = Field(30.0, ge=0)
    """Seconds that a feature worker waits for a cluster to put another node in the place of one
    that does not answer, before it ends."""
    redis_ssl_ca: Path | None = None
    """PEM file with the certificate authority of the store, for `rediss://`."""
    redis_ssl_cert: Path | None = None
    """PEM file with our certificate, for a store that demands one."""
    redis_ssl_key: Path | None = None
    """PEM file with the private key of `redis_ssl_cert`."""
    redis_timeout_ms: int = Field(2_000, ge=10)
    """Milliseconds after which one call to the store is given up."""

    # --- Model server ----------------------------------------------------------------------
    model_server: Literal["triton", "in-process"] = "triton"
    """Who runs the models: Triton, or the scoring worker itself (no Triton on this machine)."""
    triton_grpc_url: str = "127.0.0.1:8001"
    """Triton gRPC endpoint, `host:port`; several, with commas between them, take turns."""
    triton_http_url: str = "127.0.0.1:8000"
    """Triton HTTP endpoint, `host:port`; only metrics and readiness of the local stack use it."""
    triton_ssl_ca: Path | None = None
    """PEM file with the certificate authority of Triton; turns TLS on."""
    triton_ssl_cert: Path | None = None
    """PEM file with our certificate, for mutual TLS with Triton."""
    triton_ssl_key: Path | None = None
    """PEM file with the private key of `triton_ssl_cert`."""
    triton_restricted_key: SecretStr | None = None
    """`<key>=<value>` as it stands behind the colon of Triton's `--grpc-restricted-protocol`, for
    whoever loads models where that is restricted."""
    model_repository: Path = Path(DATA_DIR) / "models"
    """Triton's model repository; relative paths start at the repo directory."""
    mlflow_tracking_uri: SecretStr | None = None
    """The registry of models: `http(s)://` address of an MLflow server, or URL of its database. By
    default a SQLite file in `.streamsvc/mlflow` of the repo."""

    # --- Feature and scoring workers -------------------------------------------------------
    definitions_interval_s: float = Field(1.0, ge=0.1)
    """Seconds between two looks at the registry for changed definitions. A change is taken up at
    the look after the one that saw it, when it is complete."""

    # --- Feature worker --------------------------------------------------------------------
    commit_interval_ms: int = Field(1_000, ge=10)
    """Milliseconds between state commits; bounds what a restart replays."""
    clock_skew_ms: int = Field(5, ge=0)
    """Milliseconds by which clocks of producers and feature workers may differ, and that a broker
    may take to hand a new record on. Requests on a topic of their own wait for so much more."""
    standby_memory_mb: int = Field(0, ge=0)
    """Megabytes that copies of states which other feature workers own may take in this one, so that
    it takes them over without reading their logs first; 0 keeps none."""
    flush_interval_ms: int = Field(0, ge=0)
    """Least milliseconds between two writes of rows and of what is said of them, and so between
    commits; 0 writes back to back."""

    # --- Archive worker --------------------------------------------------------------------
    archive_interval_s: float = Field(60.0, gt=0)
    """Seconds that an event waits at most before it is in a file."""
    archive_buffer_bytes: int = Field(256 << 20, ge=1)
    """Bytes of events that wait in memory; beyond that the largest file is written at once."""
    archive_file_bytes: int = Field(128 << 20, ge=1)
    """Bytes up to which small files of a day are merged."""
    archive_grace_s: float = Field(3_600.0, ge=60)
    """Seconds that files stay after they were merged, for whoever is reading them."""

    # --- Events and requests ---------------------------------------------------------------
    max_record_bytes: int = Field(262_144, ge=1)
    """Bytes above which an event or a request is refused without being parsed."""
    max_future_ms: int = Field(3_600_000, ge=0)
    """Milliseconds an event time may lie ahead of its Kafka timestamp before it is refused."""

    # --- History ---------------------------------------------------------------------------
    history_memory_mb: int = Field(1_024, ge=16)
    """Megabytes that archived events and their tiles may take in `get_historical_features` and
    `feast materialize`, about; a larger archive is worked through in slices of time."""

    # --- Training --------------------------------------------------------------------------
    training_memory_mb: int = Field(2_048, ge=1)
    """Megabytes that the features of a training set may take, about; a larger set is read in parts,
    and boosted from files in the temporary directory."""

    # --- Scoring worker --------------------------------------------------------------------
    max_inflight_batches: int = Field(4, ge=1)
    """Batches that may be scored at once; at most 2 while fewer than 256 requests are under way."""
    max_inflight_mb: int = Field(64, ge=1)
    """Megabytes of requests that a service of a worker holds unanswered; what comes on top waits
    at the broker."""
    transaction_interval_ms: int = Field(20, ge=0)
    """Least milliseconds from one transaction of a route with `delivery="exactly_once"` to the
    next. Readers see a prediction when its transaction ends: fewer are cheaper, and later."""
    served_log: bool = True
    """Whether every feature vector is logged to `served.<service>`."""
    freshness_wait_ms: int | None = Field(None, ge=0)
    """Milliseconds that requests wait for their events, instead of what their route says. A replay
    in lockstep sets it high, because there nothing may be missing."""
    deadline_ms: int | None = Field(None, ge=1)
    """Milliseconds after which a fallback answers, instead of what the route says."""

    # --- Seen from outside -----------------------------------------------------------------
    metrics_port: int = Field(0, ge=0, le=65_535)
    """Port of the Prometheus endpoint of a worker; 0 takes a free one and logs it."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto` is readable on a terminal and JSON elsewhere."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""

    @property
    def triton_addresses(self) -> tuple[str, ...]:
        """`host:port` of every Triton."""
        return tuple(address.strip() for address in self.triton_grpc_url.split(","))

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        for prefix in ("kafka_ssl", "redis_ssl", "triton_ssl"):
            if getattr(self, f"{prefix}_cert") and not getattr(self, f"{prefix}_key"):
                raise ValueError(f"{prefix}_cert needs {prefix}_key")
        if self.kafka_sasl_mechanism and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(
                "kafka_sasl_mechanism needs kafka_sasl_username and kafka_sasl_password"
            )
        restricted = self.triton_restricted_key
        if restricted is not None and not all(restricted.get_secret_value().partition("=")):
            raise ValueError("triton_restricted_key must be <key>=<value>")
        for address in self.triton_addresses:
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal():
                raise ValueError(f"triton_grpc_url must be host:port[,host:port…], not {address!r}")
        registry = self.schema_registry_url
        if registry is not None and TypeAdapter(HttpUrl).validate_python(registry).username:
            raise ValueError(
                "schema_registry_url must not hold credentials; set schema_registry_username "
                "and schema_registry_password"
            )
        if self.heartbeat_interval_ms * 3 > self.session_timeout_ms:
            raise ValueError("heartbeat_interval_ms must be at most a third of session_timeout_ms")
        urls = redis_nodes(self.redis_url.get_secret_value())
        for url in urls:
            TypeAdapter(RedisDsn).validate_python(url)
        if len(urls) > 1 and not self.redis_cluster:
            raise ValueError("redis_url names several nodes, so redis_cluster must be true")
        return self


def redis_nodes(url: str) -> list[str]:
    """A URL that may name several nodes as one URL a node.

    >>> redis_nodes("redis://me:secret@a:1,b:2/0")
    ['redis://me:secret@a:1/0', 'redis://me:secret@b:2/0']
    """
    scheme, separator, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    user, at, hosts = place.rpartition("@")
    return [f"{scheme}{separator}{user}{at}{host}{slash}{path}" for host in hosts.split(",")]


def load_settings(repo: Path | None = None, **overrides: Any) -> Settings:
    """The settings that hold for a Feast repo directory.

    Raises ConfigurationError that names the setting, where it came from, and the nearest known name
    for one that does not exist.
    """
    root = repo or Path()
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, found in (
        (ENDPOINTS_FILE, _read_json(root / ENDPOINTS_FILE)),
        (TOML_FILE, _read_toml(root / TOML_FILE)),
        ("environment", _read_environment(os.environ)),
        ("command line", overrides),
    ):
        values.update(found)
        origin.update(dict.fromkeys(found, name))
    known = set(Settings.model_fields)
    for key in values:
        if key not in known:
            raise ConfigurationError(_unknown(key, origin[key], known))
    try:
        return Settings(**values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = str(item["loc"][0]) if item["loc"] else ""
            where = f"{key} (from {origin.get(key, 'defaults')}): " if key else ""
            lines.append(f"{where}{item['msg'].removeprefix('Value error, ')}")
        raise ConfigurationError("Bad setting: " + "; ".join(lines)) from error


def explicit_settings(repo: Path) -> dict[str, str]:
    """What somebody set on purpose for this repo, in `streamsvc.toml` or the environment, as text.

    A server whose address is among them exists already: the local stack leaves it alone.
    """
    found = {**_read_toml(repo / TOML_FILE), **_read_environment(os.environ)}
    return {key: str(value) for key, value in found.items()}


def _unknown(key: str, origin: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    shown = f"{ENV_PREFIX}{key.upper()}" if origin == "environment" else key
    hint = f" Did you mean {near[0]!r}?" if near else " `streamsvc env --all` lists the settings."
    return f"Unknown setting {shown!r} in {origin}.{hint}"


def _read_environment(environment: Any) -> dict[str, str]:
    return {
        key.removeprefix(ENV_PREFIX).lower(): value
        for key, value in environment.items()
        if key.startswith(ENV_PREFIX)
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is damaged ({error}); `streamsvc down && streamsvc up` writes it again"
        ) from error
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
