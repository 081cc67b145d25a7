"""Delivery over HTTP: one request, one deadline, one outcome.

Also the rules of HTTP targets: which URLs, headers and addresses are allowed. The only importer of httpx, httptools,
aiodns and aiohappyeyeballs; the only folder that opens connections to targets.
"""
