"""How servers are reached: TLS with certificates from files, and what a failure of it means.

Every client speaks TLS by a library of its own and words its failures differently. So a link that
fails is tried once more here, by hand, and one sentence says what is wrong with it and which
setting to look at.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection, socket

from pydantic import SecretStr

from streamsvc.errors import ConfigurationError, StreamsvcError, UnavailableError
from streamsvc.settings import Settings

__all__ = ["Link", "kafka_link", "ssl_error_of", "store_link", "store_link_of", "triton_link"]

_PATIENCE_S = 3.0
_ALERT_S = 1.5
"""How long a server has to say, after the handshake, that it does not like our certificate."""

# X509_V_ERR_… of OpenSSL, which the ssl module has no names for.
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_AUTHORITY = (18, 19, 20, 21)
_OTHER_HOST = (62, 64)


@dataclass(frozen=True, slots=True)
class Link:
    """How to reach one kind of server."""

    server: str
    """What a person calls it."""
    address: str
    """The setting that says where it is."""
    files: str
    """What the settings that name certificate files begin with."""
    tls: bool
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    key_password: SecretStr | None = None
    enable: str = ""
    """How TLS is turned on, for a sentence."""
    protocols: tuple[str, ...] = ()
    """What is spoken inside TLS (ALPN); gRPC hangs up on whoever does not say so."""

    def context(self) -> ssl.SSLContext:
        """Verifies the server's certificate and host name; shows our certificate if there is one.

        Raises ConfigurationError for files that cannot be read.
        """
        password = self.key_password
        try:
            context = ssl.create_default_context(
                ssl.Purpose.SERVER_AUTH, cafile=None if self.ca is None else str(self.ca)
            )
            if self.cert is not None:
                context.load_cert_chain(
                    self.cert, self.key, password.get_secret_value() if password else None
                )
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"Cannot read the certificates for {self.server} ({error}); look at "
                f"{self.files}_ca, {self.files}_cert and {self.files}_key"
                f"{f' and {self.files}_key_password' if password else ''}."
            ) from error
        return context

    def fault(self, host: str, port: int) -> StreamsvcError | None:
        """What is wrong with TLS between us and the server; None if nothing is, or nobody is there.

        Blocks for a few seconds at most.
        """
        try:
            plain = create_connection((host, port), _PATIENCE_S)
        except OSError:
            return None
        with plain:
            fault = self._fault_of_tls if self.tls else self._fault_without_tls
            return fault(plain, host, port)

    def _fault_of_tls(self, plain: socket, host: str, port: int) -> StreamsvcError | None:
        try:
            context = self.context()
            if self.protocols:
                context.set_alpn_protocols(list(self.protocols))
            link = context.wrap_socket(plain, server_hostname=host)
        except ssl.SSLError as error:
            return self.explained(error, host, port)
        except TimeoutError:
            return self._silent(host, port)
        except OSError as error:
            return self._speaks_no_tls(host, port, str(error))
        with link:
            link.settimeout(_ALERT_S)
            # A server that wants a certificate of ours says so only now, or just goes away.
            try:
                closed = link.recv(1) == b""
            except TimeoutError:
                return None
            except ssl.SSLError as error:
                return self.explained(error, host, port)
            except OSError:
                closed = True
        return self._wants_certificate(host, port) if closed and self.cert is None else None

    def _fault_without_tls(self, plain: socket, host: str, port: int) -> StreamsvcError | None:
        try:
            _trusting().wrap_socket(plain).close()
        except ssl.SSLError as error:
            # Only a server that speaks TLS asks for a certificate.
            if "CERTIFICATE_REQUIRED" not in (error.reason or ""):
                return None
        except OSError:
            return None
        return self._must_be_tls(host, port)

    def explained(self, error: ssl.SSLError, host: str, port: int) -> StreamsvcError:
        """A failed handshake as a sentence.

        ConfigurationError for what a setting can mend; UnavailableError for a certificate that the
        server has to renew.
        """
        where = f"{self.server} at {host}:{port}"
        code = getattr(error, "verify_code", None)
        if code in (_EXPIRED, _NOT_YET_VALID):
            when = "has expired" if code == _EXPIRED else "is not valid yet"
            return UnavailableError(
                f"The certificate of {where} {when}. The server needs a new one; {self.address} "
                f"and {self.files}_ca may stay as they are."
            )
        if code in _OTHER_HOST:
            return ConfigurationError(
                f"{where} shows a certificate that is not for {host!r}: put a name that stands in "
                f"it into {self.address}, or give the server a certificate for this one."
            )
        if code in _UNKNOWN_AUTHORITY:
            return ConfigurationError(
                f"{where} shows a certificate that no authority in {self.files}_ca "
                f"({self.ca or 'those of this machine'}) has signed: that file must hold the "
                "authority of this server."
            )
        reason = error.reason or str(error)
        if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
            return self._wants_certificate(host, port)
        if "ALERT" in reason and self.cert is not None:
            return ConfigurationError(
                f"{where} refuses the certificate in {self.files}_cert ({reason.lower()}): it must "
                "be valid now and signed by an authority that the server knows."
            )
        return self._speaks_no_tls(host, port, reason.lower())

    def _speaks_no_tls(self, host: str, port: int, why: str) -> StreamsvcError:
        return ConfigurationError(
            f"{self.server} at {host}:{port} does not speak TLS with us ({why}): look at "
            f"{self.address} and {self.files}_ca."
        )

    def _wants_certificate(self, host: str, port: int) -> StreamsvcError:
        return ConfigurationError(
            f"{self.server} at {host}:{port} demands a certificate of its clients: set "
            f"{self.files}_cert and {self.files}_key."
        )

    def _silent(self, host: str, port: int) -> StreamsvcError:
        return UnavailableError(
            f"{self.server} at {host}:{port} does not answer a TLS handshake: it hangs, or "
            f"does not speak TLS; then look at {self.address}."
        )

    def _must_be_tls(self, host: str, port: int) -> StreamsvcError:
        return ConfigurationError(
            f"{self.server} at {host}:{port} speaks TLS, and we do not: {self.enable}."
        )


def kafka_link(settings: Settings) -> Link:
    """The link to the brokers."""
    return Link(
        "Kafka",
        "kafka_bootstrap_servers",
        "kafka_ssl",
        bool(settings.kafka_ssl_ca or settings.kafka_ssl_cert),
        settings.kafka_ssl_ca,
        settings.kafka_ssl_cert,
        settings.kafka_ssl_key,
        settings.kafka_ssl_key_password,
        "set kafka_ssl_ca",
    )


def store_link(settings: Settings) -> Link:
    """The link to the online store."""
    tls = settings.redis_url.get_secret_value().startswith("rediss://")
    files = settings.redis_ssl_ca, settings.redis_ssl_cert, settings.redis_ssl_key
    return store_link_of(tls, *files)


def store_link_of(tls: bool, ca: Path | None, cert: Path | None, key: Path | None) -> Link:
    """The link to the online store that a client with these files has."""
    on = "begin redis_url with rediss://"
    return Link("The online store", "redis_url", "redis_ssl", tls, ca, cert, key, enable=on)


def triton_link(settings: Settings) -> Link:
    """The link to the model server."""
    return Link(
        "Triton",
        "triton_grpc_url",
        "triton_ssl",
        settings.triton_ssl_ca is not None,
        settings.triton_ssl_ca,
        settings.triton_ssl_cert,
        settings.triton_ssl_key,
        enable="set triton_ssl_ca",
        protocols=("h2",),
    )


def ssl_error_of(error: BaseException | None) -> ssl.SSLError | None:
    """The failed handshake among the causes of an error."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _trusting() -> ssl.SSLContext:
    """Only to see whether somebody speaks TLS; nothing is ever sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
