#!/usr/bin/env bash
# mlflow 3.17: a metric cannot be called HR@20, as this field calls it in every paper and table: the sign @ is refused, where
# a space, a slash and a colon are allowed. Two names that differ in it only, made harmless by hand, are one metric.
source "$(dirname "$0")/common.bash"

install mlflow-skinny==3.17.2 sqlalchemy==2.0.44 alembic==1.17.2
cat > "$work/log.py" <<'PY'
import mlflow, logging
logging.disable()
mlflow.set_tracking_uri("sqlite:///runs.db")
with mlflow.start_run():
    for name in ("HR at 20", "HR/20", "HR:20", "HR@20"):
        try:
            mlflow.log_metric(name, 0.25)
            print(f"{name}: kept")
        except mlflow.exceptions.MlflowException as error:
            print(f"{name}: {str(error).splitlines()[0][:60]}")
PY
{
  python -c "from importlib.metadata import version; print('mlflow-skinny', version('mlflow-skinny'))"
  (cd "$work" && python log.py 2> errors || cat errors)
} | tee "$work/seen"
expect "^HR at 20: kept$" "$work/seen"
expect "^HR/20: kept$" "$work/seen"
expect "^HR@20: Invalid " "$work/seen"
