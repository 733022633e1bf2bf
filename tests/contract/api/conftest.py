"""A running API over a scripted service, for every test here."""

from collections.abc import AsyncIterator

import pytest

from tests.contract.api.scripted import Door, running


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with running() as opened:
        yield opened
