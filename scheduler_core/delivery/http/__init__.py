"""The target kind for ``http`` and ``https`` URLs: one request, one deadline, one outcome with a verdict.

Also checks which URLs, headers and addresses are allowed. The only folder that imports httpx, httptools, aiodns and
aiohappyeyeballs for deliveries, and the only one that opens connections to targets.
"""
