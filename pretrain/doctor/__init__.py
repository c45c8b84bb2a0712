"""Whether this machine can train: `python -m pretrain.doctor`, alone or on every rank under a launcher.

machine, storage           what is here, and how fast disk, shared memory and MLflow's store are
kernels                    every operator against its definition
training, profile, resume  steps of the real trainer, what they launch, and whether a checkpoint continues bitwise
attention, aggregation     speed of the two parts
compiled                   torch.compile: one graph, and the eager numbers
collective, ranks          between the ranks: an all-reduce, and how their reports come together
checks, setting            the list of checks, and the sizes that a device gets
last_fault                 what the ranks of a run have left at its last fault, and the likely culprit
runner, report, conduct    checks one by one, results as a table and as JSON, the command's course
ending                     what a signal does
"""
