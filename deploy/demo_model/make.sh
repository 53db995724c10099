#!/bin/sh
# The demo model from nothing: drawings, vocabulary, training, checkpoint, examples, scores.
# RUN is the folder of the run (else one in the cache), which goes on where it was cut; STEPS its length.
set -eu
cd "$(dirname "$0")/../.."

python="${VENV:-.venv}/bin/python"

"$python" -m deploy.demo_model.sources
"$python" -m deploy.demo_model.vocabulary
"$python" -m deploy.demo_model.train ${RUN:+--out "$RUN"} ${STEPS:+--steps "$STEPS"}
"$python" -m deploy.demo_model.export ${RUN:+--run "$RUN"}
"$python" -m deploy.demo_model.examples
"$python" -m deploy.demo_model.evaluate --card glm4v/demo_model/README.md
