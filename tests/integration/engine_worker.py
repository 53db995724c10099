"""A language worker on an engine of the test's process."""

from pathlib import Path

from glm4v.broker import Connection, Keys
from glm4v.broker.blobs import Blobs
from glm4v.broker.lm_queue import LmQueue
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.device.arbiter import Arbiter, NoArbiter
from lm_worker.claimer import Claimer
from lm_worker.engine.engine import Engine
from lm_worker.engine.publications import OutputSink
from lm_worker.publisher import Publisher
from lm_worker.worker import Worker
from tests.parity.engine_runs import Layout, engine_of

MODEL = "model"  # the fingerprint in the jobs of tests


class EngineWorker:
    """The parts of a worker; `sink` stands before its publisher, if there is one."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        folder: Path,
        queue: LmQueue,
        *,
        lease_s: float,
        sink: OutputSink | None = None,
        arbiter: Arbiter | None = None,
    ) -> None:
        self.queue = queue
        self.publisher = Publisher(queue)
        self.engine: Engine = engine_of(folder, Layout(), sink or self.publisher)
        self.claimer = Claimer(
            queue,
            Blobs(connection, keys),
            self.engine,
            self.publisher,
            spec=Checkpoint.open(folder).spec,
            fingerprint=MODEL,
            max_num_seqs=4,
            lease_s=lease_s,
            arbiter=arbiter or NoArbiter(),
        )
        self.worker = Worker(queue, self.engine, self.publisher, self.claimer, lease_s=lease_s)
