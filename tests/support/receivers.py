"""Receivers of alerts on loopback: an HTTP server and an SMTP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import Message
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from tests.support.listeners import close


class Webhooks:
    """Keeps requests, and answers each with ``status`` and ``body``."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.body = b"ok"
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head.decode("latin-1").split("\r\n")[1:-2]
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append((headers, body))
                writer.write(
                    b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%s" % (self.status, len(self.body), self.body)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def webhooks() -> AsyncIterator[Webhooks]:
    """Yield an HTTP server that receives webhooks."""
    found = Webhooks()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/alerts"
    try:
        yield found
    finally:
        await close(server)


class Mailbox:
    """Keeps e-mails, and refuses recipients whose name is in ``refused``."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.refused: dict[str, str] = {}
        self.password = b""
        self.port = 0

    async def handle_RCPT(  # noqa: N802 - aiosmtpd calls it so
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        import email

        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 accepted"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        good = isinstance(data, LoginPassword) and data.password == self.password
        return AuthResult(success=good, handled=False)


@asynccontextmanager
async def mailbox(*, tls: Any = None, password: bytes = b"") -> AsyncIterator[Mailbox]:
    """Yield an SMTP server. ``tls``: the context of its STARTTLS; ``password``: what it requires."""
    found = Mailbox()
    found.password = password
    loop = asyncio.get_running_loop()

    def protocol() -> SMTP:
        return SMTP(
            found,
            hostname="mail.test",
            tls_context=tls,
            require_starttls=tls is not None,
            auth_required=bool(password),
            authenticator=found.authenticate if password else None,
            loop=loop,
        )

    server = await loop.create_server(protocol, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        await close(server)
