"""One server for all SDKs: the model takes longer to load than many a test to run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def mini() -> Iterator[object]:
    """See `sdk.served_mini`."""
    from tests.dialects.sdk import served_mini

    with served_mini() as served:
        yield served
