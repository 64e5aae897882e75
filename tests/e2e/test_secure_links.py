"""The payments repo where nobody may do more than they must: TLS, credentials and ACLs.

One secured stack for the whole file. What a command prints is what the servers are given.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.certificates import Authority
from support.models import small_model
from support.payments import VIEWS, by_key, generate
from support.repo import RunningRepo
from support.secure_kafka import ADMIN, SecureKafka
from support.secure_triton import KEY, SecureTriton
from support.served import assert_served
from support.tls_front import TlsFront

from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.models.triton_access import check_link
from streamsvc.models.triton_control import TritonControl
from streamsvc.models.triton_repository import publish
from streamsvc.scoring.triton_client import TritonModel
from streamsvc.settings import Settings
from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers
from streamsvc.transport.admin import Admin
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import EARLIEST, read_to_end

ROLES = ("features", "scoring", "archive", "operator")
MODEL = ("card_spend:count_amount_600s", "shop_sales:count_amount_3600s")
PASSWORDS = {f"streamsvc-{role}": f"{role}-password" for role in ROLES}
STORE_USER = "features-user"
UPDATES = "spend.updates"
PATIENCE_S = 240


@dataclass(frozen=True)
class SecureStack:
    """Servers that let nobody in without credentials."""

    kafka: SecureKafka
    front: TlsFront
    triton: SecureTriton
    settings: Settings
    """The administrator's."""

    def unique(self, prefix: str) -> str:
        return f"{prefix}-secure"

    def environment(self, role: str) -> dict[str, str]:
        """What a worker or a command of this role is told."""
        user = f"streamsvc-{role}"
        store = f"{user}:{PASSWORDS[user]}@127.0.0.1:{self.front.ports['secure']}"
        found = {
            "STREAMSVC_KAFKA_SASL_USERNAME": user,
            "STREAMSVC_KAFKA_SASL_PASSWORD": PASSWORDS[user],
        }
        if role != "archive":
            found["STREAMSVC_REDIS_URL"] = f"rediss://{store}/0"
        return found

    def run_store_commands(self, commands: str, directory: Path) -> None:
        """What `streamsvc store acls` has printed, run by a shell; valkey-cli is not installed."""
        url = self.settings.redis_url.get_secret_value()
        program = directory / "valkey-cli"
        program.write_text(
            f"#!{sys.executable}\nimport redis, sys\n"
            f"assert redis.Redis.from_url({url!r}).execute_command(*sys.argv[1:])\n"
        )
        program.chmod(0o755)
        passwords = {f"STREAMSVC_{r.upper()}_PASSWORD": PASSWORDS[f"streamsvc-{r}"] for r in ROLES}
        path = f"{directory}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **passwords, "PATH": path}
        subprocess.run(["bash", "-e"], input=commands, env=environment, text=True, check=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def kafka(authority: Authority, tmp_path_factory) -> Iterator[SecureKafka]:
    with SecureKafka(tmp_path_factory.mktemp("kafka"), authority, PASSWORDS) as made:
        yield made


@pytest.fixture(scope="module")
def secure_triton(authority: Authority, tmp_path_factory) -> Iterator[SecureTriton]:
    with SecureTriton(tmp_path_factory.mktemp("triton"), authority) as made:
        yield made


@pytest.fixture(scope="module")
def front(stack, authority: Authority) -> Iterator[TlsFront]:
    """TLS before the shared store, which gets a user with one command and one project."""
    url = urlsplit(stack.settings.redis_url.get_secret_value())
    with connect(stack.settings) as client:
        client.execute_command(
            *("ACL", "SETUSER", STORE_USER, "reset", "on", ">secret", "~{mine/*", "+mget")
        )
        with TlsFront(url.netloc, authority) as made:
            yield made
        for user in (STORE_USER, *PASSWORDS):
            client.execute_command("ACL", "DELUSER", user)


@pytest.fixture
def secure(stack, kafka, front, secure_triton) -> SecureStack:
    settings = kafka.settings(redis_url=stack.settings.redis_url)
    return SecureStack(kafka, front, secure_triton, settings)


class SecureRepo(RunningRepo):
    """Every process of it is one role's."""

    def __init__(self, stack: SecureStack, directory: Path) -> None:
        ca = str(stack.settings.kafka_ssl_ca)
        super().__init__(
            stack,
            directory,
            "payments",
            PAYMENTS_ARCHIVE="data/archive",
            PAYMENTS_UPDATES=UPDATES,
            STREAMSVC_ARCHIVE_INTERVAL_S="0.3",
            STREAMSVC_DEADLINE_MS="60000",
            STREAMSVC_KAFKA_SSL_CA=ca,
            STREAMSVC_KAFKA_SASL_MECHANISM="SCRAM-SHA-512",
            STREAMSVC_REDIS_SSL_CA=ca,
            STREAMSVC_TRITON_GRPC_URL=stack.triton.address,
            STREAMSVC_TRITON_SSL_CA=ca,
            STREAMSVC_MODEL_REPOSITORY=str(stack.triton.models),
        )

    def start(self, role: str) -> None:
        self.start_worker(role, role, **self.stack.environment(role))

    def command(self, role: str, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "streamsvc", *words],
            cwd=self.path,
            env={**self.environment, **self.stack.environment(role)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stderr


async def updated(settings: Settings) -> set[str]:
    """The cards that the topic of updates tells of."""
    partitions = dict.fromkeys(Admin(settings).end_offsets(UPDATES), EARLIEST)
    return {
        json.loads(chunk.value(i))["entity"]["card_id"]
        async for chunk in read_to_end(settings, UPDATES, partitions)
        for i in range(len(chunk))
    }


@pytest.mark.timeout(900)
def test_payments_by_roles_with_no_more_than_they_need(secure, tmp_path):
    with SecureRepo(secure, tmp_path) as repo:
        repo.apply()
        small = small_model(features=MODEL)
        publish(secure.triton.models, small.version(1, "payment_risk"), small.booster)
        with TritonControl(secure.triton.settings(triton_restricted_key=KEY)) as control:
            control.load("payment_risk")

        secure.run_store_commands(repo.command("operator", "store", "acls"), tmp_path)
        # Nothing is allowed on Kafka yet, and nothing is there.
        said = repo.command("features", "worker", "features", code=2)
        assert "does not allow user 'streamsvc-features'" in said
        assert "streamsvc topics acls" in said

        # One role as the shell commands that are printed, the others as the JSON.
        printed = repo.command("operator", "topics", "acls", "--role", "features")
        secure.kafka.run_acl_commands(printed)
        told = json.loads(repo.command("operator", "topics", "acls", "--json"))
        secure.kafka.allow([acl for acl in told if acl["role"] != "features"])
        said = repo.command("features", "worker", "features", code=2)
        assert "cannot be created" in said, "workers may not make topics"

        repo.command("operator", "topics", "create")
        for role in ("features", "scoring", "archive"):
            repo.start(role)
        repo.produce(generate(2_000, seed=1).records)
        repo.wait_until_applied(240)
        truth = assert_served(repo, VIEWS)
        assert repo.dead_letter_reasons().total() == truth.refused

        repo.wait_for_records("served.payment_risk", 1)
        tail = ("predictions", "tail", "payment_risk", "-n", "500", "--from-beginning")
        found = repo.command("operator", *tail, "--json").splitlines()
        assert {json.loads(line)["fallback"] for line in found} == {None}, "Triton answered"

        [letters] = json.loads(repo.command("operator", "dead-letters", "list", "--json"))
        assert letters["reasons"]["bad_json"]["letters"] > 0
        again = ("dead-letters", "replay", repo.topic, "--reason", "bad_json", "--yes")
        repo.command("operator", *again)
        listed = json.loads(repo.command("operator", "topics", "list", "--json"))
        assert all(topic["exists"] for topic in listed)
        assert not any(topic["differences"] for topic in listed)
        for role in ("features", "scoring", "archive"):
            assert repo.stop_worker(role) == 0, repo.log_of(role)
        report = json.loads(repo.command("operator", "parity", "payment_risk", "--json"))
        assert report["holds"]
        assert report["vectors"] > 1_900
        told = asyncio.run(updated(repo.settings))
        assert told == {card for (card,) in by_key(truth, "card_spend")}


# --- Kafka -----------------------------------------------------------------------------------


def by_librdkafka(settings: Settings) -> None:
    Admin(settings).describe(["some"])


def by_aiokafka(settings: Settings) -> None:
    async def connect() -> None:
        producer = BatchProducer(settings)
        await producer.start()
        await producer.stop()

    asyncio.run(connect())


@pytest.mark.parametrize("client", [by_librdkafka, by_aiokafka])
@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ("password", ConfigurationError, "refuses user 'admin'.*kafka_sasl_password"),
        ("user", ConfigurationError, "refuses user 'nobody'.*kafka_sasl_username"),
        ("mechanism", ConfigurationError, "kafka_sasl_mechanism"),
        ("no login", ConfigurationError, "logs in.*set kafka_sasl_mechanism"),
        ("no tls", ConfigurationError, "speaks TLS.*set kafka_ssl_ca"),
        ("authority", ConfigurationError, "no authority in kafka_ssl_ca"),
        ("no file", ConfigurationError, "Cannot read.*kafka_ssl_ca"),
        ("expired", UnavailableError, "certificate of Kafka.*has expired.*kafka_bootstrap_servers"),
        ("host", ConfigurationError, "not for '127.0.0.1'.*kafka_bootstrap_servers"),
    ],
)
def test_kafka_says_what_is_wrong(kafka, tmp_path, client, wrong, error, said):
    changed = {
        "password": {"kafka_sasl_password": "wrong"},
        "user": {"kafka_sasl_username": "nobody"},
        "mechanism": {"kafka_sasl_mechanism": "PLAIN"},
        "no login": {"kafka_sasl_mechanism": None},
        "no tls": {"kafka_ssl_ca": None},
        "authority": {"kafka_ssl_ca": Authority(tmp_path, "another").certificate},
        "no file": {"kafka_ssl_ca": tmp_path / "missing.pem"},
        "expired": {"kafka_bootstrap_servers": kafka.address("EXPIRED")},
        "host": {"kafka_bootstrap_servers": kafka.address("STRANGER")},
    }[wrong]
    with pytest.raises(error, match=said) as found:
        client(kafka.settings(ADMIN, **changed))
    assert type(found.value) is error
    assert "\n" not in str(found.value)


# --- the online store ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ("nothing", None, ""),
        ("own certificate", None, ""),
        ("password", ConfigurationError, "refuses this user.*redis_url.*streamsvc store acls"),
        ("no user", ConfigurationError, "refuses this user.*streamsvc store acls"),
        ("key", ConfigurationError, "refuses this user.*streamsvc store acls"),
        ("no tls", ConfigurationError, "speaks TLS.*rediss://"),
        ("plain", UnavailableError, "does not speak TLS.*redis_url"),
        ("authority", ConfigurationError, "no authority in redis_ssl_ca"),
        ("no file", ConfigurationError, "Cannot read.*redis_ssl_ca"),
        ("expired", UnavailableError, "certificate of .*store.*has expired.*redis_url"),
        ("host", ConfigurationError, "not for '127.0.0.1'.*redis_url"),
        ("no certificate", ConfigurationError, "demands a certificate.*redis_ssl_cert"),
    ],
)
def test_the_store_says_what_is_wrong(stack, front, authority, tmp_path, wrong, error, said):
    user, scheme, kind, project = f"{STORE_USER}:secret@", "rediss", "secure", "mine"
    files: dict[str, object] = {"redis_ssl_ca": authority.certificate}
    certificate, key = authority.issue("client")
    match wrong:
        case "password":
            user = f"{STORE_USER}:wrong@"
        case "no user":
            user = "nobody:secret@"
        case "key":
            project = "another"
        case "no tls":
            scheme = "redis"
        case "authority":
            files = {"redis_ssl_ca": Authority(tmp_path, "another").certificate}
        case "no file":
            files = {"redis_ssl_ca": tmp_path / "missing.pem"}
        case "expired":
            kind = "expired"
        case "host":
            kind = "stranger"
        case "no certificate":
            kind = "mutual"
        case "own certificate":
            kind = "mutual"
            files |= {"redis_ssl_cert": certificate, "redis_ssl_key": key}
    port = front.ports[kind]
    if wrong == "plain":
        port = urlsplit(stack.settings.redis_url.get_secret_value()).port
    settings = Settings(redis_url=f"{scheme}://{user}127.0.0.1:{port}/0", **files)

    def read() -> object:
        return read_markers(connect(settings), project, "view", [0])

    if error is None:
        assert read() == [None]
        return
    with pytest.raises(error, match=said) as found:
        read()
    assert type(found.value) is error
    assert "secret" not in str(found.value)
    assert "\n" not in str(found.value)


# --- Triton ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ("nothing", None, ""),
        ("no tls", ConfigurationError, "Triton.*speaks TLS.*set triton_ssl_ca"),
        ("authority", ConfigurationError, "no authority in triton_ssl_ca"),
        ("no file", ConfigurationError, "Cannot read.*triton_ssl_ca"),
        ("expired", UnavailableError, "certificate of Triton.*has expired.*triton_grpc_url"),
        ("host", ConfigurationError, "not for '127.0.0.1'.*triton_grpc_url"),
        ("no certificate", ConfigurationError, "demands a certificate.*triton_ssl_cert"),
    ],
)
def test_triton_says_what_is_wrong(secure_triton, front, tmp_path, wrong, error, said):
    changed: dict[str, object] = {
        "nothing": {},
        "no tls": {"triton_ssl_ca": None},
        "authority": {"triton_ssl_ca": Authority(tmp_path, "another").certificate},
        "no file": {"triton_ssl_ca": tmp_path / "missing.pem"},
        "expired": {"triton_grpc_url": f"127.0.0.1:{front.ports['expired']}"},
        "host": {"triton_grpc_url": f"127.0.0.1:{front.ports['stranger']}"},
        "no certificate": {"triton_grpc_url": f"127.0.0.1:{front.ports['mutual']}"},
    }[wrong]
    settings = secure_triton.settings(triton_restricted_key=KEY, **changed)

    def control() -> None:
        with TritonControl(settings) as found:
            found.inference_count("none")

    if error is None:
        check_link(settings)
        with TritonControl(settings) as found:
            assert found.is_live()
        return
    for ask in (lambda: check_link(settings), control):
        with pytest.raises(error, match=said) as found:
            ask()
        assert type(found.value) is error


async def test_only_who_has_the_key_controls_models(secure_triton):
    small = small_model()
    card = small.version(1, "restricted")
    publish(secure_triton.models, card, small.booster)
    named = "triton_restricted_key"
    for key in (None, "admin-key=wrong"):
        settings = secure_triton.settings(triton_restricted_key=key)
        with TritonControl(settings) as control, pytest.raises(ConfigurationError, match=named):
            control.load(card.model)
    settings = secure_triton.settings()
    client = TritonModel.connect(settings, settings.triton_addresses[0], card)
    with pytest.raises(ConfigurationError, match=named):
        await client.recover(60.0)
    with TritonControl(secure_triton.settings(triton_restricted_key=KEY)) as control:
        control.load(card.model)
        assert control.is_ready(card.model, 1)
    await client.recover(60.0)
    assert len(await client.predict(small.matrix, 60.0)) == len(small.matrix)
    await client.close()
