"""Ask several questions at once: python ask_async.py HOST:PORT[,HOST:PORT] photo.jpg

With several gateways the streams of one that is killed go on through another. Needs
`pip install glm4v-serve`, which installs grpcio and protobuf only.
"""

import asyncio
import sys
from pathlib import Path

from glm4v.client import AsyncClient, user_message
from glm4v.errors import DeadlinePassed, Overloaded

QUESTIONS = ("What is this?", "图片里有什么？", "What colour is it?")


async def ask(client: AsyncClient, image: bytes, question: str) -> str:
    """The answer, or why there is none in time."""
    try:
        async with client.generate(
            [user_message(question, image)], temperature=0, timeout_s=60
        ) as answer:
            return await answer.text()
    except (DeadlinePassed, Overloaded) as error:
        return f"({error})"


async def main(targets: str, image: bytes) -> None:
    """All answers, in the order of the questions."""
    async with AsyncClient(*targets.split(",")) as client:
        print("model:", (await client.get_model()).name)
        answers = await asyncio.gather(*(ask(client, image, text) for text in QUESTIONS))
        for question, answer in zip(QUESTIONS, answers, strict=True):
            print(question, answer)


if __name__ == "__main__":
    addresses, path = sys.argv[1:]
    asyncio.run(main(addresses, Path(path).read_bytes()))
