#!/usr/bin/env bash
# tritonclient 2.73: with binary_data=False it writes a missing value as NaN into its JSON, which no JSON has (RFC 8259,
# section 6). A server with a strict parser refuses the request; sent as binary data the same array arrives.
source "$(dirname "$0")/common.bash"

install "tritonclient[http]==2.73.0" numpy==2.4.6
python - <<'PY' | tee "$work/seen"
import json
from importlib.metadata import version

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


intents = np.array([[1.0, np.nan]], dtype=np.float32)
given = InferInput("intents", [1, 2], "FP32")
given.set_data_from_numpy(intents, binary_data=False)
body, _ = InferenceServerClient.generate_request_body([given])
print(f"tritonclient {version('tritonclient')}: {body.decode()}")
try:
    json.loads(body, parse_constant=refuse)
    print("strict parser: accepted")
except ValueError as error:
    print(f"strict parser: {error}")
PY
expect "strict parser: NaN is not JSON" "$work/seen"
