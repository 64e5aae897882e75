"""The Plan: what the Feast registry asks for, immutable and validated.

Everything that runs is derived from a Plan; nothing downstream reads the registry again.
Times are integer milliseconds. Feature columns are in sorted name order, because Feast lists
the features of a view that was loaded from the registry in no stable order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LIFETIME_MS",
    "Aggregate",
    "AvroEncoding",
    "BatchView",
    "Encoding",
    "EventField",
    "EventSchema",
    "FeatureRef",
    "FieldType",
    "JoinKey",
    "OnDemandView",
    "Plan",
    "ProtobufEncoding",
    "Route",
    "Service",
    "Source",
    "Start",
    "TimeUnit",
    "Updates",
    "View",
]

FieldType: TypeAlias = Literal["int64", "float64", "bool", "string"]
TimeUnit: TypeAlias = Literal["iso8601", "s", "ms", "us", "ns", "kafka"]
Start: TypeAlias = Literal["earliest", "latest"] | int
"""A topic's beginning, its end, or its first record with this Kafka timestamp (ms) or later."""
LIFETIME_MS: Final = 2**60
"""Window and hop of an aggregate over everything since the beginning: a tile that never ends."""


@dataclass(frozen=True, slots=True)
class EventField:
    """One column of an event. `path` walks nested objects: ("card", "id") is `{"card": {"id": …}}`.

    `name` is the dotted path, which is the column's name everywhere downstream.
    """

    name: str
    path: tuple[str, ...]
    type: FieldType
    nullable: bool = True


@dataclass(frozen=True, slots=True)
class AvroEncoding:
    """Values are Avro binary."""

    schema: str
    """The declared schema, JSON: what readers want, whatever the writer's was."""
    framed: bool
    """Whether each value begins with the id of its writer's schema in a Schema Registry."""


@dataclass(frozen=True, slots=True)
class ProtobufEncoding:
    """Values are messages of one Protobuf type."""

    message: str
    """Full name of the message type."""
    files: bytes
    """Serialised FileDescriptorSet: the file that declares it and all that this one imports."""
    framed: bool
    """Whether each value begins with a schema id and the place of its type in that schema."""


Encoding: TypeAlias = AvroEncoding | ProtobufEncoding


@dataclass(frozen=True, slots=True)
class EventSchema:
    """How a topic's records become columns."""

    fields: tuple[EventField, ...]
    timestamp_field: str
    """Name of the field that holds the event time."""
    time_unit: TimeUnit | None = None
    """Unit of an event time given as a number; None means that only ISO-8601 strings are taken.
    `kafka` is the Kafka timestamp of the record: an int64 field, the last one, that no value holds.
    """
    encoding: Encoding | None = None
    """None is JSON."""

    @property
    def kafka_time(self) -> bool:
        """Whether an event happened when its record says that it was written."""
        return self.time_unit == "kafka"

    @property
    def in_values(self) -> tuple[EventField, ...]:
        """The fields that are read from the records' values."""
        return self.fields[:-1] if self.kafka_time else self.fields


@dataclass(frozen=True, slots=True)
class Source:
    """One Feast KafkaSource."""

    name: str
    topic: str
    schema: EventSchema
    allowed_lateness_ms: int
    max_future_ms: int
    """An event this far ahead of its Kafka timestamp is a dead letter."""
    key_field: str | None
    """Column whose murmur2 partitions the topic, when the source promises one."""
    archive_path: str | None
    """Where the same raw events lie as files (`batch_source`), or None."""
    archive_timestamp_field: str | None = None
    archive_created_field: str | None = None
    """Column of the archive that says when an event arrived, or None."""
    archive_endpoint: str | None = None
    """Endpoint of the object store that holds it, where it is not the usual one."""
    start: Start = "earliest"
    """Where in the topic a view begins that has no state yet."""

    @property
    def archive_is_directory(self) -> bool:
        """Whether an archive worker may write the archive."""
        return self.archive_path is not None and not self.archive_path.endswith(".parquet")


@dataclass(frozen=True, slots=True)
class JoinKey:
    """One entity column. `name` is the join key, which is also the event's column name."""

    name: str
    type: Literal["int64", "string"]


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One feature of a windowed view, over a window or, with LIFETIME_MS, over all time."""

    feature: str
    column: str
    function: str
    """See `definitions.functions`."""
    window_ms: int
    hop_ms: int
    """Left edge of the window moves on this grid; tiles are this wide."""


@dataclass(frozen=True, slots=True)
class Updates:
    """Where a view's rows go besides the store."""

    topic: str
    each_event: bool = False
    """A record for each event that changes a row, instead of one for each row that is written."""


@dataclass(frozen=True, slots=True)
class View:
    """One StreamFeatureView; of one without aggregations each column is its `latest`."""

    name: str
    source: Source
    join_keys: tuple[JoinKey, ...]
    """Sorted by name."""
    aggregates: tuple[Aggregate, ...]
    """Sorted by feature name; one per stored column."""
    feature_types: Mapping[str, str]
    """Feature name -> Feast value type name (`"Float64"`, `"Int64"`, `"Float32"`, …)."""
    udf: Callable[[pd.DataFrame], pd.DataFrame] | None
    ttl_ms: int | None
    definition_hash: str
    """Hex digest of everything above that changes a value."""
    column_types: Mapping[str, FieldType] = field(default_factory=dict)
    """Aggregated column -> its type, after the udf where there is one."""
    udf_text: str = ""
    """What `udf_fingerprint` makes of the udf; empty without one."""
    updates: Updates | None = None

    @property
    def shuffled(self) -> bool:
        """Whether rows must be repartitioned by entity before they are aggregated."""
        return len(self.join_keys) != 1 or self.source.key_field != self.join_keys[0].name

    @property
    def each_event(self) -> bool:
        """Whether somebody is told the row of each event."""
        return self.updates is not None and self.updates.each_event

    @property
    def features(self) -> tuple[str, ...]:
        """Stored feature names, sorted."""
        return tuple(a.feature for a in self.aggregates)


@dataclass(frozen=True, slots=True)
class BatchView:
    """A FeatureView that Feast materialises; read at scoring time only."""

    name: str
    join_keys: tuple[JoinKey, ...]
    features: tuple[str, ...]
    """Sorted."""
    feature_types: Mapping[str, str]
    ttl_ms: int | None


@dataclass(frozen=True, slots=True)
class OnDemandView:
    """An OnDemandFeatureView in pandas or python mode, run on a chunk of requests."""

    name: str
    features: tuple[str, ...]
    request_fields: Mapping[str, str]
    """Request field -> Feast value type name."""
    source_features: tuple[FeatureRef, ...]
    transform: Callable[[pd.DataFrame], pd.DataFrame]
    feature_types: Mapping[str, str] = field(default_factory=dict)
    udf_text: str = ""
    """What `udf_fingerprint` makes of its udf."""


@dataclass(frozen=True, slots=True, order=True)
class FeatureRef:
    """`view:feature`, as in `get_online_features`."""

    view: str
    feature: str

    def __str__(self) -> str:
        return f"{self.view}:{self.feature}"


@dataclass(frozen=True, slots=True)
class Route:
    """How requests become predictions: the parsed tags of a FeatureService."""

    requests: str
    model: str
    predictions: str
    deadline_ms: int = 1_000
    freshness_wait_ms: int = 10
    default: float = 0.0
    default_class: str | None = None
    threshold: float = 0.5
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    start: Literal["earliest", "latest"] = "earliest"
    cache_mb: int = 0
    shared_cache_s: int = 0
    feature_cache_mb: int = 0
    feature_cache_ms: int = 60_000
    keys: Mapping[str, str] = field(default_factory=dict)
    """Join key -> request field, where the names differ."""
    labels: str | None = None
    label_field: str | None = None
    label_from: float | None = None
    label_id: str | None = None
    label_window_ms: int = 86_400_000


@dataclass(frozen=True, slots=True)
class Service:
    """One FeatureService. `route` is None for a service that only training reads."""

    name: str
    features: tuple[FeatureRef, ...]
    """In the order of the FeatureService's projections; on-demand features included."""
    route: Route | None
    request: Source | None
    """The KafkaSource whose topic is the route's request topic."""
    labels: Source | None = None
    """The KafkaSource whose topic is that of the route's labels; None where it names none."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole Feast repo, ready to run."""

    project: str
    sources: tuple[Source, ...]
    views: tuple[View, ...]
    batch_views: tuple[BatchView, ...]
    on_demand_views: tuple[OnDemandView, ...]
    services: tuple[Service, ...]

    def view(self, name: str) -> View:
        """The windowed view of that name; KeyError if there is none."""
        return next(v for v in self.views if v.name == name)

    def service(self, name: str) -> Service:
        """The service of that name; KeyError lists those that exist."""
        for service in self.services:
            if service.name == name:
                return service
        raise KeyError(f"no FeatureService {name!r}; there are {[s.name for s in self.services]}")
