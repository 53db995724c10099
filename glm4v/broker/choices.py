"""A request for several answers: one job and one journal for each choice, accepted together.

The journal of choice 0 has the request's name, the others add to it. No request id of a caller
contains a slash.
"""

from glm4v.internal.v1 import journal_pb2 as pb

_SEEDS = 2**64


def choice_id(request_id: str, choice: int) -> str:
    """The name of a choice's journal."""
    return f"{request_id}/{choice}" if choice else request_id


def candidates(job: pb.Job) -> int:
    """Number of answers that are generated for a job's request."""
    return max(job.n, job.best_of, 1)


def is_ranked(job: pb.Job) -> bool:
    """Whether only the best of the generated answers are returned."""
    return candidates(job) > max(job.n, 1)


def choice_jobs(job: pb.Job) -> list[pb.Job]:
    """The jobs of all choices, given that of choice 0.

    Choice k is sampled with the seed plus k, on whichever worker it runs.
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
