"""The tasks: what is learned from which data, trained by Lightning from plain arguments.

Always imported as ``vsattn.tasks``.
"""
