#!/usr/bin/env bash
# safetensors 0.8.0: save_file of safetensors.numpy writes an array that is not contiguous in the order in which it
# lies in memory, under the shape that it has: another matrix is read back. 0.7.0 wrote what was given.
source "$(dirname "$0")/common.bash"

for version in 0.7.0 0.8.0; do
  install "safetensors==$version" numpy==2.4.6
  python - <<'PY' | tee "$work/$version"
import tempfile
from importlib.metadata import version

import numpy as np
from safetensors.numpy import load_file, save_file

given = np.arange(6, dtype=np.float32).reshape(2, 3).T  # (3, 2), a view
with tempfile.TemporaryDirectory() as folder:
    save_file({"given": given}, f"{folder}/x.safetensors")
    found = load_file(f"{folder}/x.safetensors")["given"]
    save_file({"given": np.ascontiguousarray(given)}, f"{folder}/x.safetensors")
    copied = load_file(f"{folder}/x.safetensors")["given"]
print(f"safetensors {version('safetensors')}: wrote {given.tolist()}, read {found.tolist()}")
print("same:", np.array_equal(given, found), "- as a contiguous copy:", np.array_equal(given, copied))
PY
done
expect "same: True - as a contiguous copy: True" "$work/0.7.0"
expect "same: False - as a contiguous copy: True" "$work/0.8.0"
