"""The version of what members say to each other."""

CONTRACT_VERSION = 2
"""Rises with every change of unrolls or policies that older members cannot read."""
