"""What belongs to whom."""

from gateway.access.caller import Caller
from gateway.admission.validation import MAX_SALT_BYTES
from tests.unit.gateway.test_admission import admission, request


def test_owners_share_no_prefix_whatever_salts_they_send() -> None:
    sent = ["", "a", "b", "owner:"]
    salts = {Caller(owner).cache_salt(salt) for owner in ("", "ann", "bob") for salt in sent}
    assert len(salts) == 3 * len(sent)
    assert Caller("ann").cache_salt("a") == Caller("ann", client="elsewhere").cache_salt("a")


def test_an_anonymous_caller_cannot_send_the_salt_of_an_owner() -> None:
    assert Caller().cache_salt("tenant") == "tenant"
    assert len(Caller("ann").cache_salt("").encode()) > MAX_SALT_BYTES


async def test_a_job_has_its_owner_and_the_salt_of_it() -> None:
    ann, asked = Caller("ann"), request()
    asked.cache_salt = "mine"
    job = (await admission().admit(asked, ann, None)).job
    assert (job.owner, job.cache_salt) == ("ann", ann.cache_salt("mine"))
    job = (await admission().admit(asked, Caller(), None)).job
    assert (job.owner, job.cache_salt) == ("", "mine")
    assert (await admission().admit(request(), ann, None)).job.client == ann.share


def test_a_client_is_known_by_a_digest_that_names_no_host() -> None:
    callers = [Caller(client="192.0.2.7"), Caller(client="192.0.2.8"), Caller("ann"), Caller("bob")]
    assert len({caller.share for caller in callers}) == len(callers)
    assert Caller("ann", client="elsewhere").share == Caller("ann").share
    assert len(callers[0].share) == 6  # 16 million digests for four thousand million addresses
    assert Caller().share == ""
