"""The payments template on a small bank: generated, applied, trained and running."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
from support.repo import RunningRepo

from streamsvc.cli.templates import template_path


class RunningBank(RunningRepo):
    """What its README says, under names of its own."""

    def __init__(self, stack: Any, directory: Path, **environment: str) -> None:
        defaults = {
            "STREAMSVC_TOPIC_PARTITIONS": "2",
            "STREAMSVC_TRITON_GRPC_URL": stack.settings.triton_grpc_url,
            "STREAMSVC_MODEL_REPOSITORY": str(stack.model_repository),
        }
        template = template_path("payments")
        super().__init__(stack, directory, "bank", template=template, **(defaults | environment))
        self.service = stack.unique("fraud").replace("-", "_")
        self._rename("feature_store.yaml", "project: payments", f"project: {self.project}")
        self._rename("sources.py", 'topic="payments"', f'topic="{self.topic}"')
        self._rename("services.py", 'requests="payments"', f'requests="{self.topic}"')
        self._rename("services.py", 'fraud"', f'{self.service}"')
        toml = self.path / "streamsvc.toml"
        redis_url = stack.settings.redis_url.get_secret_value()
        toml.write_text(f'{toml.read_text()}\nredis_url = "{redis_url}"\n')  # for Feast in here

    def _rename(self, file: str, old: str, new: str) -> None:
        path = self.path / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    @property
    def predictions(self) -> str:
        return f"predictions.{self.service}"

    @property
    def outcomes(self) -> pd.DataFrame:
        """The payments of the live part, and what they were."""
        return pd.read_parquet(self.path / "data" / "outcomes.parquet")

    def generate(self, **options: object) -> str:
        """The files; the instant at which the live part begins, as commands take it."""
        words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        said = self.run(sys.executable, "generate.py", *words)
        return said.split("begins at ")[1].strip()
