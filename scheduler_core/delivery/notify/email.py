"""Sends an e-mail by SMTP. The library is loaded with the first e-mail."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

import httpx

from scheduler_core.delivery.http.connect import Connector, Origin, default_ssl_context
from scheduler_core.delivery.notify.documents import email_of
from scheduler_core.delivery.notify.result import Result
from scheduler_core.model.alerts import Channel, Message, SmtpSecurity

TIMEOUT_SECONDS: Final = 15.0
"""The deadline of one e-mail, from the name lookup to the answer."""
MOST_TEXT: Final = 300
TEMPORARY: Final = range(400, 500)


async def send_email(connector: Connector, channel: Channel, message: Message, base_url: str) -> Result:
    """Send a message; the answer of the server, or what failed, is in the result."""
    import aiosmtplib

    smtp = channel.smtp
    assert smtp is not None
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            sock = await connector.open_socket(Origin(smtp.security is SmtpSecurity.TLS, smtp.host, smtp.port))
            try:
                encrypted = smtp.security is not SmtpSecurity.NONE
                errors, answer = await aiosmtplib.send(
                    email_of(message, channel, base_url),
                    hostname=smtp.host,
                    port=None,
                    sock=sock,
                    username=smtp.username or None,
                    password=smtp.password or None,
                    use_tls=smtp.security is SmtpSecurity.TLS,
                    start_tls=smtp.security is SmtpSecurity.STARTTLS,
                    tls_context=default_ssl_context() if encrypted else None,
                    timeout=TIMEOUT_SECONDS,
                )
            finally:
                sock.close()
    except TimeoutError:
        return Result(text=f"the SMTP server did not answer within {TIMEOUT_SECONDS:.0f} s")
    except aiosmtplib.SMTPAuthenticationError as error:
        # Its text can repeat the name of the user; the code says enough.
        return Result(refused=error.code not in TEMPORARY, status=error.code, text="the SMTP login failed")
    except aiosmtplib.SMTPRecipientsRefused as error:
        codes = sorted({one.code for one in error.recipients})
        refused = all(code not in TEMPORARY for code in codes)
        return Result(refused=refused, status=codes[0], text=f"every recipient was refused ({_list(codes)})")
    except aiosmtplib.SMTPResponseException as error:
        return Result(refused=error.code not in TEMPORARY, status=error.code, text=_cut(f"the answer was {error.code}"))
    except aiosmtplib.SMTPException as error:
        return Result(text=_cut(f"the SMTP conversation failed: {type(error).__name__}"))
    except ssl.SSLError as error:
        return Result(text=_cut(f"TLS failed: {error.reason or type(error).__name__}"))
    except httpx.ConnectError as error:
        return Result(text=_cut(str(error)))
    except OSError as error:
        return Result(text=_cut(f"the connection failed: {error.strerror or type(error).__name__}"))
    if errors:
        return Result(sent=True, status=250, text=f"sent; {len(errors)} of the recipients were refused")
    return Result(sent=True, status=250, text=_cut(f"250 {answer}"))


def _list(codes: list[int]) -> str:
    return ", ".join(map(str, codes))


def _cut(text: str) -> str:
    # aiosmtplib decodes other bytes of an answer to lone surrogates. The result of such an attempt could not be stored,
    # and the message would be sent again and again.
    text = " ".join(text.encode(errors="replace").decode().split())
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 3]}..."
