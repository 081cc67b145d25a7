"""The store on Redis or Valkey: each step is one method, and one Lua script of ``lua/`` or one round trip.

``open`` opens a store; ``store`` combines one shard from a file per subject. ``keys`` makes key names, ``codec``
encodes documents, ``faults`` translates errors of the client. Only this package imports redis and hiredis.
"""
