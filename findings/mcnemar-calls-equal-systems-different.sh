#!/usr/bin/env bash
# statsmodels 0.15.0: McNemar's test says that two systems which agree on everything differ, with p = 0.
#
# One would expect: where no case is right in one system alone, no test finds a difference: p is 1, or an error says
# that there is nothing to test. `exact=True` does: p = 1.0.
# Seen on 2026-11-30 (Python 3.11, Linux x86-64, numpy 2.4.6, scipy 1.17.1), mcnemar([[90, 0], [0, 10]]):
#   exact=True                      statistic 0      p 1.0
#   exact=False                     statistic inf    p 0.0
#   exact=False, correction=False   statistic nan    p nan
# The continuity correction takes 1 off a difference of 0 and divides its square by 0 disagreements. With a single
# disagreement it says p = 1.0.
# Who meets it: a gate that compares right and wrong answers of a model before and after a change: it fails, or in the
# third form passes every comparison with `p < 0.05`, just when both are the same.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "statsmodels==0.15.0" "scipy==1.17.1" "numpy==2.4.6"

cat >"$work/seen.py" <<'PYTHON'
import math
import sys
import warnings

from statsmodels.stats.contingency_tables import mcnemar

warnings.simplefilter("ignore")
AGREE, ONE = [[90, 0], [0, 10]], [[90, 1], [0, 9]]
exact = mcnemar(AGREE, exact=True)
corrected = mcnemar(AGREE, exact=False)
plain = mcnemar(AGREE, exact=False, correction=False)
one = mcnemar(ONE, exact=False)
for name, found in (("exact", exact), ("corrected", corrected), ("plain", plain), ("corrected, one disagreement", one)):
    print(f"{name:<28} statistic {found.statistic}, p {found.pvalue}")
stated = (
    exact.pvalue == 1
    and math.isinf(corrected.statistic)
    and corrected.pvalue == 0
    and math.isnan(plain.pvalue)
    and one.pvalue == 1
)
sys.exit(not stated)
PYTHON
"$work/venv/bin/python" "$work/seen.py"
