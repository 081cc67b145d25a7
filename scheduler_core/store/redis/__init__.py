"""The store on Redis or Valkey: one method for each step, and each step one Lua script of ``lua/`` or one round trip.

The only importer of redis and hiredis. Key names are made in ``keys``, documents are encoded in ``codec``, and errors
of the client become errors of the core in ``faults``.
"""
