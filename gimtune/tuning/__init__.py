"""Everything that knows Ray or Optuna: the trainable, the recorder of results, and studies launched and resumed.

Ray reads its switches when it is imported, so they are set here, before any module of this room imports it.
"""

import os

_SWITCHES = {
    # our recorder is the memory: nobody reads Ray's CSV, JSON and TensorBoard files, and the last costs 500 MB
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # the snapshot is never restored from
    "TUNE_GLOBAL_CHECKPOINT_S": "600",
    # the new output engine ignores a reporter; ours is the live table
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # said outright, so that Ray does not warn: a worker that asked for no GPU may see one, and does not use it
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in _SWITCHES.items():
    os.environ.setdefault(_name, _value)
