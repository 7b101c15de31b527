#!/usr/bin/env bash
# RecTools 0.19: NDCG divides by the best list of k relevant items even for a user who has one, unless
# divide_by_achievable=True. With one next item per session a perfect recommender has NDCG@20 of 0.142, not 1.
source "$(dirname "$0")/common.bash"

install rectools==0.19.0
python - <<'PY' | tee "$work/seen"
from importlib.metadata import version

import pandas as pd
from rectools.metrics import NDCG

lists = pd.DataFrame({"user_id": [1, 2], "item_id": [7, 8], "rank": [1, 1]})  # each the one item that was clicked
clicks = pd.DataFrame({"user_id": [1, 2], "item_id": [7, 8]})
print(f"rectools {version('rectools')}")
print(f"NDCG@20 of perfect lists: {NDCG(k=20).calc(lists, clicks):.3f}")
print(f"divided by what can be had: {NDCG(k=20, divide_by_achievable=True).calc(lists, clicks):.3f}")
PY
expect "perfect lists: 0.142" "$work/seen"
expect "can be had: 1.000" "$work/seen"
