"""A broker as it should be run: TLS, SCRAM-SHA-512, and nothing allowed that no ACL allows.

Two more listeners have a certificate that expired, and one of another host.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from support.certificates import Authority

from streamsvc.errors import UnavailableError
from streamsvc.local import kafka_jars, ports
from streamsvc.local.java import find_java
from streamsvc.local.kafka import JVM_FLAGS, PROPERTIES
from streamsvc.local.report import Report
from streamsvc.settings import Settings
from streamsvc.transport.kafka_config import librdkafka_config

ADMIN = "admin"
LISTENERS = ("SECURE", "EXPIRED", "STRANGER")
TOOLS, TOOLS_VERSION = "kafka-tools", "4.1.1"
TOOLS_SHA256 = "8a6939f310a61119cedaffc144119e9b2a374e32a7ec18f78e49ce5aeb71d6b0"
PATIENCE_S = 60


class SecureKafka:
    """A context manager. `users` are names with passwords; `ADMIN` may do everything."""

    def __init__(self, directory: Path, authority: Authority, users: Mapping[str, str]) -> None:
        self._directory = directory
        self._authority = authority
        self.users = {ADMIN: uuid.uuid4().hex, **users}
        self._java = find_java()
        jars = [*kafka_jars.fetch_jars(Report()), _tools()]
        self._class_path = os.pathsep.join(map(str, jars))
        self._process: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, int] = {}

    def __enter__(self) -> SecureKafka:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write_properties()
        self._format()
        with self._log.open("wb") as log:
            command = [self._java, *JVM_FLAGS, "-cp", self._class_path, "kafka.Kafka"]
            self._process = subprocess.Popen(
                [*command, str(self._properties)], stdout=log, stderr=log
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)

    def address(self, listener: str = "SECURE") -> str:
        return f"127.0.0.1:{self.ports[listener]}"

    def settings(self, user: str = ADMIN, **changed: object) -> Settings:
        """How a client of ours connects as this user."""
        values: dict[str, object] = {
            "kafka_bootstrap_servers": self.address(),
            "kafka_ssl_ca": self._authority.certificate,
            "kafka_sasl_mechanism": "SCRAM-SHA-512",
            "kafka_sasl_username": user,
            "kafka_sasl_password": self.users[user],
        }
        return Settings(**{**values, **changed})

    def run_acl_commands(self, commands: str) -> None:
        """What `streamsvc topics acls` has printed, run by a shell as the administrator."""
        program = self._directory / "bin" / "kafka-acls.sh"
        program.parent.mkdir(exist_ok=True)
        config = self._directory / "admin.properties"
        config.write_text(
            "security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n"
            "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required "
            f'username="{ADMIN}" password="{self.users[ADMIN]}";\n'
            f"ssl.truststore.type=PEM\nssl.truststore.location={self._authority.certificate}\n"
        )
        program.write_text(
            f"#!/bin/sh\nexec {self._java} -XX:TieredStopAtLevel=1 -XX:+UseSerialGC "
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=error "
            f"-cp {self._class_path} org.apache.kafka.tools.AclCommand "
            f'--command-config {config} "$@"\n'
        )
        program.chmod(0o755)
        path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-e"],
            input=commands,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"

    def allow(self, acls: Sequence[Mapping[str, Any]]) -> None:
        """What `streamsvc topics acls --json` has printed, made by the administrator's client."""
        kinds = {
            "topic": ResourceType.TOPIC,
            "group": ResourceType.GROUP,
            "transactional-id": ResourceType.TRANSACTIONAL_ID,
        }
        bindings = [
            AclBinding(
                kinds[acl["resource"]],
                acl["name"],
                ResourcePatternType[acl["pattern"].upper()],
                acl["principal"],
                "*",
                AclOperation[re.sub("(?<=[a-z])(?=[A-Z])", "_", operation).upper()],
                AclPermissionType.ALLOW,
            )
            for acl in acls
            for operation in acl["operations"]
        ]
        client = AdminClient(librdkafka_config(self.settings()))
        for future in client.create_acls(bindings).values():
            future.result(30)

    # --- the server ------------------------------------------------------------------------

    @property
    def _properties(self) -> Path:
        return self._directory / "server.properties"

    @property
    def _log(self) -> Path:
        return self._directory / "server.log"

    def _write_properties(self) -> None:
        for name in ("CONTROLLER", "INTERNAL", *LISTENERS):
            self.ports[name] = ports.choose([21_000], self.ports.values())
        listeners = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self.ports.items())
        plain = ("CONTROLLER", "INTERNAL")
        protocols = [
            f"{name}:{'PLAINTEXT' if name in plain else 'SASL_SSL'}" for name in self.ports
        ]
        advertised = [f"{n}://127.0.0.1:{p}" for n, p in self.ports.items() if n != "CONTROLLER"]
        lines = {
            **PROPERTIES,
            "log.dirs": self._directory / "data",
            "listeners": listeners,
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": ",".join(protocols),
            "inter.broker.listener.name": "INTERNAL",
            "controller.quorum.voters": f"1@127.0.0.1:{self.ports['CONTROLLER']}",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            # The broker itself comes by the two listeners without TLS, which nobody else uses.
            "super.users": f"User:{ADMIN};User:ANONYMOUS",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        }
        for name in LISTENERS:
            host = "elsewhere.example" if name == "STRANGER" else "127.0.0.1"
            certificate, key = self._authority.issue(
                f"kafka-{name.lower()}", host=host, expired=name == "EXPIRED"
            )
            both = self._directory / f"{name.lower()}.pem"
            both.write_bytes(key.read_bytes() + certificate.read_bytes())
            prefix = f"listener.name.{name.lower()}"
            lines[f"{prefix}.ssl.keystore.type"] = "PEM"
            lines[f"{prefix}.ssl.keystore.location"] = both
            lines[f"{prefix}.scram-sha-512.sasl.jaas.config"] = (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            )
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        self._properties.write_text(text)

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        scram = []
        for user, password in self.users.items():
            scram += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
        tool = [self._java, "-XX:TieredStopAtLevel=1", "-cp", self._class_path]
        tool += ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties)]
        done = subprocess.run([*tool, *scram], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE_S
        address = f"127.0.0.1:{self.ports['INTERNAL']}"
        client = AdminClient({"bootstrap.servers": address, "log_level": 0})
        while True:
            try:
                if client.list_topics(timeout=1.0).brokers:
                    return
            except KafkaException:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"no secure broker: {self._log.read_text()[-3000:]}")


def _tools() -> Path:
    """The jar with Kafka's own command-line tools, which a broker does not need."""
    jar = kafka_jars.Jar("org.apache.kafka", TOOLS, TOOLS_VERSION, TOOLS_SHA256)
    if not jar.is_intact():
        kafka_jars._download(jar, kafka_jars._maven(None))
    assert hashlib.sha256(jar.path.read_bytes()).hexdigest() == TOOLS_SHA256
    return jar.path
