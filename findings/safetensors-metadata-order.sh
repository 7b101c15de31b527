#!/usr/bin/env bash
# safetensors 0.8: the same tensors with the same metadata are other bytes from call to call, once the metadata has several
# entries: these stand in the header in the order of a hash table with a random seed. So two files of one content have two
# hashes, and a cache or version that goes by the hash takes them for different.
source "$(dirname "$0")/common.bash"

install safetensors==0.8.0 numpy==2.4.6
cat > "$work/save.py" <<'PY'
import hashlib
import numpy as np
from safetensors.numpy import load, save

def hashes(facts):
    files = [save({"a": np.arange(3)}, facts) for _ in range(50)]
    assert all((load(one)["a"] == np.arange(3)).all() for one in files)
    return len({hashlib.sha256(one).hexdigest() for one in files})

facts = {f"key{number}": str(number) for number in range(8)}
print("hashes of 50 files, one entry:", hashes({"key": "value"}))
print("hashes of 50 files, eight entries:", "one" if hashes(facts) == 1 else "several")
PY
{
  python -c "from importlib.metadata import version; print('safetensors', version('safetensors'))"
  python "$work/save.py"
} | tee "$work/seen"
expect "one entry: 1$" "$work/seen"
expect "eight entries: several$" "$work/seen"
