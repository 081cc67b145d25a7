"""The store on Redis or Valkey: one method for each step, and each step one Lua script of ``lua/`` or one round trip.

``open`` opens a store, ``store`` puts one shard together from a file per subject. Key names are made in ``keys``,
documents are encoded in ``codec``, errors of the client become errors of the core in ``faults``. The only importer of
redis and hiredis.
"""
