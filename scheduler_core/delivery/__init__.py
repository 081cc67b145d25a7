"""Delivers calls to targets: one attempt, one outcome. One package per target kind, chosen by the scheme of a URL.

``base`` has the protocol, ``registry`` the kinds that are installed. Jobs, leases and Redis do not belong here:
the node decides when to deliver and checks the lease, and the plan decides about retries.
"""
