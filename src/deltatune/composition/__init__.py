"""Make one delta of several, and a plain LoRA of anything that changes matrices.

=================  ==========================================================================
``rules``          what becomes of several tensors: sums, TIES, DARE, pruning
``truncation``     the best low-rank stand-in for a matrix, and what it loses
``ways``           the table of ways: which rule acts on what
``source``         what a delta changes, read off a model
``folders``        the same, read off saved folders, and written without a model
``building``       a LoRA with given factors, on a model
``compose``        the verb
``lorahub``        weights found on a few examples
``checkpoints``    the difference of two checkpoints
=================  ==========================================================================
"""
