"""Deterministic simulation of the consensus adapter: whole clusters, real PySyncObj included, under one seed.

Read in this order: scenario (what a run is made of), cluster (how a run goes), process (one node and its disk),
network, nemesis (what goes wrong), checker (what must hold), plants (bugs that the checker has to find), run (the CLI).
"""
