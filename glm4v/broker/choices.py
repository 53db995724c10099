"""A request for several answers: one job and one journal for each, accepted together.

The journal of choice 0 has the name of the request, and the others build on it; no caller's request
id has a slash.
"""

from glm4v.internal.v1 import journal_pb2 as pb

_SEEDS = 2**64


def choice_id(request_id: str, choice: int) -> str:
    """Names the journal of a choice."""
    return f"{request_id}/{choice}" if choice else request_id


def candidates(job: pb.Job) -> int:
    """Answers that are generated for a job's request."""
    return max(job.n, job.best_of, 1)


def is_ranked(job: pb.Job) -> bool:
    """Whether only the best of its answers are reported."""
    return candidates(job) > max(job.n, 1)


def choice_jobs(job: pb.Job) -> list[pb.Job]:
    """The jobs of all choices; `job` is that of choice 0.

    Choice k is drawn with the seed plus k, whichever worker draws it.
    """
    jobs = [job]
    for choice in range(1, candidates(job)):
        other = pb.Job()
        other.CopyFrom(job)
        other.request_id = choice_id(job.request_id, choice)
        other.sampling.seed = (job.sampling.seed + choice) % _SEEDS
        other.choice = choice
        jobs.append(other)
    return jobs


def first_choice(job: pb.Job) -> pb.Job:
    """The job of choice 0 of the same request."""
    first = pb.Job()
    first.CopyFrom(job)
    first.request_id = job.request_id.partition("/")[0]
    first.sampling.seed = (job.sampling.seed - job.choice) % _SEEDS
    first.choice = 0
    return first
