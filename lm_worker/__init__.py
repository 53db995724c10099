"""The language worker."""

from glm4v.threads import wait_briefly

wait_briefly()  # here, since torch is loaded by what follows
