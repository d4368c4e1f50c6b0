"""Samples, effectiveness E, the evaluator and the lmms-eval tasks that judge its answers.

Import from the submodules: `outcome` alone costs nothing, `evaluator` imports torch.
"""
