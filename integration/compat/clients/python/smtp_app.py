"""An SMTP server (aiosmtpd) that offers STARTTLS, and keeps what it gets in memory for the command `VRFY`."""
import asyncio
import ssl

from aiosmtpd.controller import Controller

from compat import APP_PORT, DIR, MIB, run

run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
    "/CN=mail.shop.example", "-addext", "subjectAltName=DNS:mail.shop.example", "-keyout", f"{DIR}/mail.key", "-out",
    f"{DIR}/mail.pem")


class Mailbox:
    def __init__(self):
        self.bytes = 0

    async def handle_DATA(self, _server, _session, envelope):
        self.bytes = len(envelope.content)
        return f"250 took {self.bytes} bytes"


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{DIR}/mail.pem", f"{DIR}/mail.key")
Controller(Mailbox(), hostname="127.0.0.1", port=APP_PORT, tls_context=context, data_size_limit=64 * MIB).start()
asyncio.new_event_loop().run_forever()
