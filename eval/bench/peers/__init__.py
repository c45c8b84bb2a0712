"""Training and preparing text by this package and by its peers, in turns: `python -m eval.bench peers`.

Each trainer and each way to prepare text is a process of its own: the modules `train_*` and `prepare_*`.
"""
