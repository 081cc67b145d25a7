"""Entries that Cronpost adds to the ASGI scope of a request."""

from __future__ import annotations

KEY_IN_SCOPE = "cronpost.key"
"""The name of the API key that the request carried, or of the key of its session; absent if it carried none. A server
without keys treats each request as if it had a key. Set by the application, read by the server after the answer."""
SESSION_IN_SCOPE = "cronpost.session"
"""The session whose cookie the request carried; absent if it carried none that is valid."""
RESERVED_IN_SCOPE = "cronpost.reserved"
"""Present if the request arrived on a connection of the reserve. Set by the server, read by the application."""
