#!/bin/sh
# The demo model from nothing: drawings, vocabulary, training, checkpoint, examples, scores.
# RUN is the folder of the first run (else one in the cache), which goes on where it was cut; STEPS its
# length. The second run, of all but the tower, and the third, of all, are kept beside it.
set -eu
cd "$(dirname "$0")/../.."

python="${VENV:-.venv}/bin/python"
run="${RUN:-${GLM4V_DEMO_CACHE:-$HOME/.cache/glm4v-demo-model}/run}"

"$python" -m recipes.demo_model.sources
"$python" -m recipes.demo_model.vocabulary
"$python" -m recipes.demo_model.train --out "$run" ${STEPS:+--steps "$STEPS"}
"$python" -m recipes.demo_model.export --run "$run"
"$python" -m recipes.demo_model.train --out "$run-language" --start glm4v/demo_model --language-steps 2250 \
    --seed 2 --batch 16 --steps 2250 --decay 1650
"$python" -m recipes.demo_model.export --run "$run-language"
"$python" -m recipes.demo_model.train --out "$run-all" --start glm4v/demo_model --language-steps 200 \
    --seed 5 --batch 24 --rate 2e-4 --steps 3900 --decay 2050
"$python" -m recipes.demo_model.export --run "$run-all"
"$python" -m recipes.demo_model.examples
"$python" -m recipes.demo_model.evaluate --card glm4v/demo_model/README.md
