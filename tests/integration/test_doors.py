"""One image and one question have the same answer through every door, streamed or not."""

import pytest
import pytest_asyncio

from tests.integration.doors import DOORS, TOKENS, Answer, mindie_token_ids, native
from tests.integration.system import System, user

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def expected(system: System) -> Answer:
    """The answer of the engine itself, in the API that has its tokens."""
    text, token_ids = await native(system, True)
    assert text
    assert token_ids
    return text, token_ids


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", DOORS)
async def test_every_door_has_the_same_tokens(
    name: str, is_stream: bool, system: System, expected: Answer
) -> None:
    text, token_ids = await DOORS[name](system, is_stream)
    assert text == expected[0]
    assert token_ids in (None, expected[1])


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
async def test_token_ids_are_answered_as_the_messages_that_they_spell(
    is_stream: bool, system: System
) -> None:
    said = await system.ask([user("Hello")], max_tokens=TOKENS, ignore_eos=False)
    assert await mindie_token_ids(system, is_stream) == (said.text, said.token_ids)
