"""Ask about a image, and go on asking: python ask.py 127.0.0.1:8330 photo.jpg "What is this?"

Needs `pip install glm4v-serve`, which installs grpcio and protobuf only.
"""

import json
import sys
from pathlib import Path

from glm4v.client import Client, assistant_message, formats, user_message
from glm4v.errors import Glm4vError

SHAPE = {
    "type": "object",
    "properties": {"is_animal": {"type": "boolean"}},
    "required": ["is_animal"],
    "additionalProperties": False,
}


def main(target: str, path: str, text: str) -> None:
    """The answer as it is written, then one more in the form of a JSON schema."""
    messages = [user_message(text, Path(path).read_bytes())]
    with Client(target) as client:
        with client.generate(messages, temperature=0) as answer:
            for piece in answer.texts():
                print(piece, end="", flush=True)
        print()

        # The image is part of the conversation, but its bytes go up only once.
        messages += [assistant_message(answer.text), user_message("Is it an animal?")]
        print(client.count_tokens(messages).prompt_tokens, "tokens so far")
        with client.generate(
            messages, temperature=0, response_format=formats.json_schema(SHAPE)
        ) as answer:
            print("animal:", json.loads(answer.text)["is_animal"])


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Glm4vError as error:  # one tree for all that a gateway says
        sys.exit(f"{type(error).__name__}: {error}")
