"""What every part of Cronpost uses: settings, errors, logging, metrics, the clock, and small text formats.

Everything may import this folder; it imports nothing else of the project. Nothing here knows jobs, runs or Redis keys.
"""
