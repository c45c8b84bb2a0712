"""Training: configuration, loop on DeepSpeed, checkpoints, tracking. Command: `python -m pretrain.train`.

    train, preflight, export, plan   the commands
    doctor                           whether a machine can train
    watch                            curves of runs, from their folders
    profiling                        where the time of a step goes
    session, trainer, callbacks      a run: put together, the loop, what happens around it
    config, parsing, shipped         options, and the files that come with the project
    engine, distributed, batches     DeepSpeed's engine, the process group, the data of a step
    checkpoint, memory               what evaluation imports too

Of this room evaluation imports `pretrain.checkpoint`, `pretrain.memory` and `pretrain.session`, nothing else.
"""
