"""Delivery: one attempt, one request, one outcome. One package for each kind of target.

``base`` is the interface that the core uses. Nothing here knows jobs, leases or Redis; retries and limits are decided
by the caller.
"""
