"""A journal that the release before wrote is read as it was meant.

Its bytes were recorded from the processes of `tests.history.COMMIT`: a question about an image of
the micro model, four tokens. What the client received then, and the times of the entries, are the
right values.
"""

from glm4v.broker.entries import RawEntry, read_entry
from glm4v.broker.journal_reader import job_of
from glm4v.broker.timeline import Timeline, add_entries
from glm4v.internal.v1 import journal_pb2 as pb

REQUEST = "9de1d5ee86f34868a9cb6b9f0a98eaf3"
TOKENS = [128, 2, 76, 201]
DIGEST = bytes.fromhex("34da255a5a1c360dd4caec6b939423ebd739ef07e8be12c2568349aea56f37bd")
ACCEPTED_MS = 1796019598926
ACCEPTED = bytes.fromhex(
    "0ac5020a20396465316435656538366633343836386139636236623966306139386561663312203564623363"
    "3036386464623561366239303366336633333236363062383635641a128202840287020a8a0280028b027768"
    "7988022240313430316337333962383038643462623832326264653237376536613839303966643639623837"
    "633034653130636336613234643933613739663734633063662a270d0000803f150000803f1832250000803f"
    "280735000000003d0000803f45000000004d00000000300468904e722101b4e2dcb77cb23b10ef2c1746db99"
    "f7e98f531a6ff0b1e7c2b5a236c4b1b3e597800103980101a00101c0010ac801ddd403d2012034da255a5a1c"
    "360dd4caec6b939423ebd739ef07e8be12c2568349aea56f37bdea01201b3a2a462d6af1c19b669299ff9dfa"
    "20818afcb41b899409bcc8842440a8b95ff00112"
)
AFTER = [
    ("1796019598926-1", "s", 0, "0801"),
    ("1796019598928-0", "s", 0, "080210cfecf0d8a234"),
    ("1796019598948-0", "s", 0, "080110e3ecf0d8a234"),
    ("1796019598951-0", "s", 0, "080310e6ecf0d8a234"),
    ("1796019598957-0", "t", 1, "0a02800118ebecf0d8a234"),
    ("1796019598959-0", "t", 2, "0a010218eeecf0d8a234"),
    ("1796019598960-0", "t", 3, "0a014c18efecf0d8a234"),
    ("1796019598962-0", "t", 4, "0a02c90118f1ecf0d8a234"),
    ("1796019598962-1", "e", 4, "0803300438f1ecf0d8a234"),
]


def recorded() -> list[RawEntry]:
    first = {b"k": b"a", b"n": b"0", b"c": DIGEST, b"d": ACCEPTED, b"v": b"1"}
    entries = [(f"{ACCEPTED_MS}-0".encode(), first)]
    for entry, kind, index, payload in AFTER:
        fields = {b"k": kind.encode(), b"n": str(index).encode(), b"d": bytes.fromhex(payload)}
        entries.append((entry.encode(), fields))
    return entries


def test_the_job() -> None:
    job = job_of(REQUEST, recorded())
    assert (job.request_id, job.accepted_ms, job.timeout_ms) == (REQUEST, ACCEPTED_MS, 59_997)
    assert (job.sampling.seed, job.max_tokens, job.n, job.choice) == (7, 4, 1, 0)
    assert len(job.image_digest) == 64
    assert job.image_tokens == 18
    assert job.former_digest == DIGEST


def test_its_tokens_and_its_end() -> None:
    events = [read_entry(entry).event for entry in recorded()]
    ids = [id_ for event in events if isinstance(event, pb.JournalTokens) for id_ in event.ids]
    assert ids == TOKENS
    assert isinstance(events[-1], pb.JournalEnd)
    assert events[-1].kind == pb.END_KIND_LENGTH


def test_its_timeline() -> None:
    found = Timeline(job_of(REQUEST, recorded()))
    add_entries(found, recorded())
    phases = [(str(p.name), p.start_ms - ACCEPTED_MS, p.end_ms - ACCEPTED_MS) for p in found.phases]
    assert phases == [
        ("vision queue", 0, 2),
        ("encode", 2, 22),
        ("language queue", 22, 25),
        ("prefill", 25, 31),
        ("decode", 31, 36),
    ]
    assert (found.tokens, found.end_reason, found.time_to_first_token_s) == (4, "length", 0.031)
