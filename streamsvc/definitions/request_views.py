"""Feast FeatureView -> BatchView, and OnDemandFeatureView -> OnDemandView."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from streamsvc.definitions.plan import BatchView, FeatureRef, OnDemandView
from streamsvc.definitions.validate import check_tags, join_keys_of, milliseconds
from streamsvc.definitions.windows import udf_fingerprint

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["compile_batch_view", "compile_on_demand_view"]


def compile_batch_view(feast_view: Any, mistakes: list[str]) -> BatchView | None:
    """One materialised view, or None if it has a mistake; appends the mistakes."""
    what = f"FeatureView {feast_view.name!r}"
    wrong = check_tags(what, feast_view.tags, ())
    join_keys = join_keys_of(what, feast_view, wrong)
    mistakes += wrong
    if wrong:
        return None
    keys = {key.name for key in join_keys}
    types = {f.name: str(f.dtype) for f in feast_view.features if f.name not in keys}
    return BatchView(
        name=feast_view.name,
        join_keys=join_keys,
        features=tuple(sorted(types)),
        feature_types=dict(sorted(types.items())),
        ttl_ms=milliseconds(feast_view.ttl) if feast_view.ttl else None,
    )


def compile_on_demand_view(feast_view: Any, mistakes: list[str]) -> OnDemandView | None:
    """One on-demand view, or None if it has a mistake; appends the mistakes.

    Its transform takes and returns a DataFrame in either mode.
    """
    what = f"OnDemandFeatureView {feast_view.name!r}"
    wrong = check_tags(what, feast_view.tags, ())
    mode = str(getattr(feast_view.mode, "value", feast_view.mode)).lower()
    udf = getattr(feast_view.feature_transformation, "udf", None)
    if feast_view.aggregations:
        wrong.append(f"{what}: aggregations run in stream views only; compute them in its udf.")
    elif udf is None or mode not in {"pandas", "python"}:
        wrong.append(f"{what}: its mode is {mode!r}; use mode='pandas' or mode='python'.")
    if wrong or udf is None:
        mistakes += wrong
        return None
    names = tuple(sorted(field.name for field in feast_view.features))
    transform = udf
    if mode == "python":
        transform = (_singleton if feast_view.singleton else _lists)(udf)
    return OnDemandView(
        name=feast_view.name,
        features=names,
        request_fields=_request_fields(feast_view),
        source_features=tuple(
            sorted(
                FeatureRef(projection.name, field.name)
                for projection in feast_view.source_feature_view_projections.values()
                for field in projection.features
                if field.name not in _join_keys(projection)
            )
        ),
        transform=transform,
        feature_types={field.name: str(field.dtype) for field in feast_view.features},
        udf_text=udf_fingerprint(udf, feast_view.feature_transformation.udf_string),
    )


def _request_fields(feast_view: Any) -> Mapping[str, str]:
    return {
        field.name: str(field.dtype)
        for source in feast_view.source_request_sources.values()
        for field in source.schema
    }


def _join_keys(projection: Any) -> set[str]:
    return set(projection.join_key_map or ())


def _lists(udf: Callable[[Any], Any]) -> Any:
    """mode='python': a dict of lists to a dict of lists."""

    def transform(frame: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(udf(frame.to_dict("list")), index=frame.index)

    return transform


def _singleton(udf: Callable[[Any], Any]) -> Any:
    """mode='python', singleton=True: one dict of values to another, row by row."""

    def transform(frame: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([udf(row) for row in frame.to_dict("records")], index=frame.index)

    return transform
