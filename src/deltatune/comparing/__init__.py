"""Comparing methods: the same data, seeds and budget for each, every run in a process of its own.

::

    study      compare(): which runs, in which order, and what becomes of them
    variants   what is compared, from text such as lora:r=16
    splits     the data, split once for all runs
    search     a learning rate for each method
    trials     one run: where it lies, and whether it has been done
    crew       the processes, as seen from here
    worker     the processes, as seen from within
    measuring  what a run takes and leaves, and what it costs to use
    interval   means over seeds, and how sure they are
    results    what a comparison found
    table, pareto, report    how it is shown
"""
