"""`streamsvc predictions`: `tail` prints them as they arrive, `explain` takes one apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamsvc.cli.context import cli_context
from streamsvc.cli.explain import explain

if TYPE_CHECKING:
    from rich.text import Text

    from streamsvc.settings import Settings

__all__ = ["app", "read_tail"]

app = typer.Typer(help="Read what the models answered.", no_args_is_help=True)
app.command()(explain)


@app.command()
def tail(
    ctx: typer.Context,
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="The FeatureService.")],
    json: Annotated[bool, typer.Option("--json", help="The records as they are.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="Stop after so many predictions.")
    ] = None,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Start with the oldest that is kept.")
    ] = False,
) -> None:
    """Print predictions as they arrive, until Ctrl-C.

    Columns: request time, entity, score, decision, model, and what is unusual about it.
    """
    from streamsvc.definitions.registry import load_plan
    from streamsvc.errors import ConfigurationError

    context = cli_context(ctx)
    plan = load_plan(context.repo, context.settings.max_future_ms)
    routes = {s.name: s.route for s in plan.services if s.route is not None}
    if service not in routes:
        raise ConfigurationError(
            f"No FeatureService {service!r} with a scoring route; there are {sorted(routes)}."
        )
    topic = routes[service].predictions
    if not json:
        context.error_console.print(f"Predictions on {topic}; Ctrl-C ends.", style="dim")
    for number, value in enumerate(
        read_tail(context.settings, topic, from_beginning=from_beginning), start=1
    ):
        if json:
            print(value.decode(), flush=True)
        else:
            context.console.print(_line(value), soft_wrap=True)
        if number == limit:
            break


def read_tail(settings: Settings, topic: str, *, from_beginning: bool) -> Iterator[bytes]:
    """Values of all partitions of a topic, from its end (or beginning) on, without end.

    Raises ConfigurationError if there is no such topic, UnavailableError if no broker answers.
    """
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    from streamsvc.errors import UnavailableError
    from streamsvc.state.topics import TAIL_GROUP
    from streamsvc.transport.admin import Admin
    from streamsvc.transport.kafka_config import librdkafka_config

    admin = Admin(settings)
    starts = admin.start_offsets(topic) if from_beginning else admin.end_offsets(topic)
    consumer = Consumer(
        {
            **librdkafka_config(settings),
            # Assigned, never subscribed.
            "group.id": TAIL_GROUP,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 50,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, p, offset) for p, offset in starts.items()])
        while True:
            message = consumer.poll(0.5)
            if message is None:
                continue
            if message.error():
                raise UnavailableError(f"Cannot read {topic!r}: {message.error().str()}")
            value: bytes | None = message.value()
            if value is not None:
                yield value
    except KafkaException as error:
        raise UnavailableError(f"Cannot read {topic!r}: {error}") from error
    finally:
        consumer.close()


def _line(value: bytes) -> Text:
    """One prediction for people; what is not one is shown as it is."""
    from datetime import UTC, datetime

    import msgspec
    from rich.text import Text

    try:
        record: dict[str, Any] = msgspec.json.decode(value)
        at = datetime.fromtimestamp(record["request_time_ms"] / 1e3, UTC)
        entity = " ".join(f"{k}={v}" for k, v in record["entity"].items())
        decision = record["decision"]
        yes = bool(decision)
        line = Text(f"{at:%Y-%m-%d %H:%M:%S}  ", style="dim")
        line.append(f"{record['score']:.4f} ", style="bold red" if yes else "bold green")
        line.append(decision if isinstance(decision, str) else "yes" if yes else "no ")
        line.append(f"  {entity}  ", style="default")
        line.append(f"{record['model']} v{record['model_version']}", style="dim")
        for name in ("stale_ms", "ahead_ms", "fallback"):
            if record[name]:
                line.append(f"  {name.removesuffix('_ms')} {record[name]}", style="yellow")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return Text(value.decode(errors="replace"), style="red")
    return line
