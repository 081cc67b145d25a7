"""The core of Cronpost: what fires jobs, and nothing that speaks HTTP to clients.

Imports run one way: engine -> services -> {store, delivery, plan} -> {job, run, trigger} -> {config, errors, clock}.
"""
