"""Measuring rnncore: the paired timer, the peers it is compared with, the machine's limits, and presets of them all.

`rnncore bench` prints what a preset finds. Nothing in the package imports this.
"""
