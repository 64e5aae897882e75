"""Schemas by id from a Schema Registry (the HTTP interface that Confluent's defined).

`GET /schemas/ids/{id}`, and `GET /subjects/{subject}/versions/{version}` for what a schema refers
to. Schemas never change under their id, so each is fetched once. An id that the registry does not
know is asked for again after a while: a registry may learn of it from another a moment later.
"""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Iterable
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPSHandler, OpenerDirector, Request, build_opener

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from streamsvc.definitions.plan import Source
from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.events.framing import WriterSchema
from streamsvc.settings import Settings

__all__ = ["HttpSchemaRegistry", "open_registry"]

_TIMEOUT_S: Final = 10.0
_ASK_AGAIN_S: Final = 30.0
_ACCEPT: Final = "application/vnd.schemaregistry.v1+json, application/json"
_MAX_REFERENCES: Final = 100
_LARGEST_ID: Final = 2**31 - 1
_UNKNOWN: Final = (40401, 40402, 40403)
"""Subject, version, schema. Any other 404 says that the address is not a registry's."""

log = structlog.get_logger(__name__)


def open_registry(settings: Settings, sources: Iterable[Source]) -> HttpSchemaRegistry | None:
    """The registry of these sources, None if none of them has schema ids in its records.

    Raises ConfigurationError where one has and no registry is set. Connects to nothing yet.
    """
    framed = [s.name for s in sources if s.schema.encoding is not None and s.schema.encoding.framed]
    if not framed:
        return None
    if settings.schema_registry_url is None:
        raise ConfigurationError(
            f"The records of {', '.join(sorted(framed))} carry ids of a Schema Registry; set "
            "schema_registry_url."
        )
    return HttpSchemaRegistry(settings)


class HttpSchemaRegistry:
    """A registry over HTTP. Any number of threads may share it."""

    def __init__(self, settings: Settings, *, clock: Any = time.monotonic) -> None:
        assert settings.schema_registry_url is not None
        self._url = settings.schema_registry_url.rstrip("/")
        self._patience_s = settings.schema_registry_patience_s
        self._headers = {"Accept": _ACCEPT}
        if settings.schema_registry_username is not None:
            password = settings.schema_registry_password
            secret = password.get_secret_value() if password else ""
            pair = f"{settings.schema_registry_username}:{secret}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        self._opener = _opener(settings)
        self._clock = clock
        self._known: dict[int, WriterSchema] = {}
        self._unknown: dict[int, float] = {}

    def schema(self, schema_id: int) -> WriterSchema | None:
        """The schema of that id, None if the registry has none.

        Waits `schema_registry_patience_s` for a registry that does not answer, and raises
        UnavailableError then; ConfigurationError if it refuses us.
        """
        if schema_id > _LARGEST_ID:
            return None
        found = self._known.get(schema_id)
        if found is not None:
            return found
        if self._clock() < self._unknown.get(schema_id, float("-inf")):
            return None
        told = self._get(f"/schemas/ids/{schema_id}")
        if told is None:
            if len(self._unknown) >= 10_000:
                self._unknown.clear()
            self._unknown[schema_id] = self._clock() + _ASK_AGAIN_S
            return None
        texts: list[str] = []
        self._follow(told, texts, set())
        made = WriterSchema(told.get("schemaType") or "AVRO", told["schema"], tuple(texts))
        self._known[schema_id] = made
        return made

    def _follow(self, told: dict[str, Any], texts: list[str], asked: set[tuple[str, int]]) -> None:
        """Texts of what a schema refers to, each after what it refers to itself."""
        for each in told.get("references") or ():
            at = (each["subject"], each["version"])
            if at in asked or len(asked) >= _MAX_REFERENCES:
                continue
            asked.add(at)
            found = self._get(f"/subjects/{quote(at[0], safe='')}/versions/{at[1]}")
            if found is not None:
                self._follow(found, texts, asked)
                texts.append(found["schema"])

    def _get(self, path: str) -> dict[str, Any] | None:
        retrying = Retrying(
            retry=retry_if_exception_type(UnavailableError),
            stop=stop_after_delay(self._patience_s),
            wait=wait_random_exponential(multiplier=0.1, max=5.0),
            before_sleep=lambda state: log.warning(
                "schema_registry_away", error=str(state.outcome and state.outcome.exception())
            ),
            reraise=True,
        )
        return retrying(self._get_once, path)

    def _get_once(self, path: str) -> dict[str, Any] | None:
        request = Request(self._url + path, headers=self._headers)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                found: dict[str, Any] = json.loads(answer.read())
        except HTTPError as error:
            if error.code == 404 and _error_code(error) in _UNKNOWN:
                return None
            if error.code in (401, 403):
                raise ConfigurationError(
                    f"The schema registry at {self._shown} refuses us (HTTP {error.code}); look at "
                    "schema_registry_username and schema_registry_password."
                ) from error
            raise UnavailableError(self._away(f"answers HTTP {error.code}")) from error
        except (OSError, HTTPException, ValueError, RecursionError) as error:
            if isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError):
                raise ConfigurationError(
                    f"The certificate of the schema registry at {self._shown} is not trusted "
                    f"({error}); look at schema_registry_ssl_ca."
                ) from error
            raise UnavailableError(self._away(f"does not answer ({error})")) from error
        if not _is_schema(found):
            raise UnavailableError(self._away("answers something that is no schema"))
        return found

    @property
    def _shown(self) -> str:
        parts = urlsplit(self._url)
        return (
            f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"
        )

    def _away(self, what: str) -> str:
        return (
            f"The schema registry at {self._shown} {what}; records wait for it. If that is not its "
            "address, set schema_registry_url."
        )


def _error_code(error: HTTPError) -> object:
    try:
        return json.loads(error.read())["error_code"]
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return None


def _is_schema(told: Any) -> bool:
    if not isinstance(told, dict) or not isinstance(told.get("schema"), str):
        return False
    references = told.get("references") or []
    return isinstance(references, list) and all(
        isinstance(each, dict)
        and isinstance(each.get("subject"), str)
        and isinstance(each.get("version"), int)
        for each in references
    )


def _opener(settings: Settings) -> OpenerDirector:
    try:
        ca = settings.schema_registry_ssl_ca
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"Cannot read the certificate authority of the schema registry ({error}); look at "
            "schema_registry_ssl_ca."
        ) from error
    return build_opener(HTTPSHandler(context=context))
