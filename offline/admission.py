"""The gateway's admission for a checkpoint, in this process."""

from gateway.admission.admission import Admission, AdmissionLimits
from gateway.admission.sampling import read_defaults
from gateway.text.tokenizer import Tokenizer
from glm4v.checkpoint.checkpoint import Checkpoint
from glm4v.images import ImageLimits

_DEADLINE_S = 3600.0


def open_admission(checkpoint: Checkpoint, tokenizer: Tokenizer, limits: ImageLimits) -> Admission:
    """Admission with the defaults of the checkpoint. Raises CheckpointError if they are wrong."""
    return Admission(
        checkpoint.spec,
        checkpoint.fingerprint,
        tokenizer,
        read_defaults(checkpoint.directory),
        AdmissionLimits(limits, _DEADLINE_S, _DEADLINE_S),
    )
