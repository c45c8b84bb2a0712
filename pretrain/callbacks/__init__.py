"""What happens around a training step: one callback a module, each with the hooks of `Callback` that it needs.

checkpointing saves, evaluation validates, tracking prints and writes down (metrics_file, starts, mlflow_run,
event_files, throughput), step_times what each rank takes, profiling where a step's time goes, nonfinite and spikes
guard, stop_signals ends a run in good order, watchdog (heartbeats) one that hangs.
`pretrain.session` puts them together.
"""

from pretrain.callbacks.base import Callback, StepResult, TrainingError

__all__ = ["Callback", "StepResult", "TrainingError"]
