#!/usr/bin/env bash
# polars 2.1: a float column divided by a number is multiplied by the number's reciprocal, which rounds twice. Exact
# quotients come out one bit too small, and the floor of some is one too low: a click at the very start of a time bin
# falls into the bin before. numpy and Python divide. Whole numbers divided by `//` are exact in polars, too.
source "$(dirname "$0")/common.bash"

install polars==2.1.0 numpy==2.4.6
python - <<'PY' | tee "$work/seen"
import numpy as np
import polars as pl

print(f"polars {pl.__version__}, numpy {np.__version__}")
width = 30 * 86400  # 30 days in seconds
starts = np.arange(1, 2001) * width  # each exactly the start of a bin
seconds = pl.Series(starts.astype(np.float64))
by_polars = (seconds / float(width)).floor().to_numpy()
by_numpy = np.floor(starts.astype(np.float64) / width)
exact = np.arange(1, 2001)
reciprocal = np.floor(starts.astype(np.float64) * (1.0 / width))
print(f"bins that are wrong: numpy {(by_numpy != exact).sum()}, polars {(by_polars != exact).sum()} of 2000")
print("polars is what multiplying by 1 / width gives:", np.array_equal(by_polars, reciprocal))
whole = (pl.Series(starts) // width).to_numpy()
print(f"whole numbers divided by //: {(whole != exact).sum()} wrong")
PY
expect "numpy 0, polars [1-9]" "$work/seen"
expect "multiplying by 1 / width gives: True" "$work/seen"
expect "divided by //: 0 wrong" "$work/seen"
