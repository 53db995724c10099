"""A load whose requests are judged as they end, so that it can go on for hours."""

from random import Random

from tests.chaos.checker import Verdict, judge
from tests.chaos.load import Load
from tests.e2e.fleet import Fleet
from tests.e2e.journals import read_journal
from tests.e2e.reading import Reader


class JudgedLoad(Load):
    """Keeps no request once it is judged; the first whole answer to a question is the right one."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        super().__init__(seed)
        self._fleet = fleet
        self._answers: dict[str, list[int]] = {}
        self.verdict = Verdict(faults=0)

    async def ask_next(self, reader: Reader, rng: Random) -> None:
        """One request, to its end, and what is to be said of it."""
        await super().ask_next(reader, rng)
        ended = [(name, reading) for name, reading in self.readings if reading.terminal]
        self.readings = [(name, reading) for name, reading in self.readings if not reading.terminal]
        for name, reading in ended:
            if reading.terminal == ["finished"]:
                self._answers.setdefault(name, reading.token_ids)
            journal = await read_journal(
                self._fleet.connection, self._fleet.keys, reading.request_id
            )
            judge(self.verdict, reading, journal, self._answers.get(name, reading.token_ids))
