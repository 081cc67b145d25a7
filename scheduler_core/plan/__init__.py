"""Decides what happens next to a job: pure functions from a job, its state and the time to a transition.

No I/O, no clock, no randomness: the caller passes these in, and the store applies the transition in one step. Every
rule of claims, retries, overlap, misses, recovery and changes by clients is here, and only here.
"""
