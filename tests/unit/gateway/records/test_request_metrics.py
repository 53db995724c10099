"""What is counted of a request."""

from gateway.records.request_metrics import RequestMetrics
from glm4v.broker.choices import choice_jobs
from glm4v.broker.timeline import Phase, PhaseName, Timeline
from glm4v.internal.v1 import journal_pb2 as pb
from glm4v.telemetry.metrics import Registry


async def test_a_prompt_with_eight_answers_counts_once_for_its_owner() -> None:
    registry = Registry()
    metrics = RequestMetrics(registry)
    job = pb.Job(request_id="r", accepted_ms=1000, prompt_ids=[1, 2, 3], n=8, owner="team")
    for each in choice_jobs(job):
        phase = Phase(PhaseName.DECODE, 1000, 2000, "lm-a", tokens=5)
        metrics.observe(Timeline(each, [phase], pb.JournalEnd(kind=pb.END_KIND_LENGTH), 2000))
    text = (await registry.text()).decode()
    assert 'glm4v_tokens_total{owner="team",type="input"} 3.0\n' in text
    assert 'glm4v_tokens_total{owner="team",type="output"} 40.0\n' in text
    assert 'glm4v_requests_total{end="length",owner="team"} 8.0\n' in text
