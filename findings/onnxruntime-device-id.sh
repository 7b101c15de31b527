#!/usr/bin/env bash
# onnxruntime 1.32, the wheel for Linux: `import onnxruntime` alone, without a model, writes a persistent device identifier
# and a database of events to upload into the user's cache folder. `disable_telemetry_events()`, "Disables platform-specific
# telemetry collection", can only be called after the import, which is too late; ORT_DISABLE_TELEMETRY=1 must be set before.
source "$(dirname "$0")/common.bash"

install onnxruntime==1.32.0 numpy==2.4.6
unset CI GITHUB_ACTIONS ORT_DISABLE_TELEMETRY XDG_CACHE_HOME # it is quiet where it sees a build machine
called() { # NAME CODE: in a home of its own; what is in there afterwards
  mkdir "$work/$1"
  HOME="$work/$1" python -c "$2"
  echo "$1: $(cd "$work/$1" && find . -type f | sort | tr '\n' ' ')"
}
{
  python -c "from importlib.metadata import version; print('onnxruntime', version('onnxruntime'))"
  called imported "import onnxruntime"
  called disabled "import onnxruntime; onnxruntime.disable_telemetry_events()"
  ORT_DISABLE_TELEMETRY=1 called variable "import onnxruntime"
} | tee "$work/seen"
expect "^imported: .*deviceid.*onnxruntime.db" "$work/seen"
expect "^disabled: .*deviceid.*onnxruntime.db" "$work/seen"
expect "^variable: $" "$work/seen"
