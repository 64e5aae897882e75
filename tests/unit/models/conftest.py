from __future__ import annotations

import pytest
from support.models import SmallModel, small_model


@pytest.fixture(scope="session")
def trained() -> SmallModel:
    return small_model()
