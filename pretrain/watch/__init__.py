"""A run seen from its folder alone, while it trains or later, here or in a copy: `python -m pretrain.watch RUN ...`

    line_file   a file that grows by a JSON object a line
    run_files   what a run's folder has, as far as it is there
    status      what is derived from that: time left, stragglers, counts; a table and the last events
    panels      which curves stand together
    terminal    one frame of text (rich, plotext)
    page        one HTML file (matplotlib)

Nothing here loads torch.
"""
