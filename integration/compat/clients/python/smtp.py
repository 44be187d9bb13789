"""SMTP: the server speaks first, STARTTLS passes through and its certificate is the app's own."""
import smtplib
import ssl
import time
from importlib.metadata import version as package_version

from compat import DIR, HOST, PATIENCE, PORT, QUIET, expect, passed, run, version

version("aiosmtpd", package_version("aiosmtpd"))
context = ssl.create_default_context(cafile=f"{DIR}/mail.pem")


class Smtp(smtplib.SMTP):
    """Checks the certificate for the name of the mail server, which is dialled by the outbound's address."""

    def tls(self):
        self._host = "mail.shop.example"
        self.starttls(context=context)


def letter(size):
    return "Subject: goods\r\n\r\n" + ("x" * 76 + "\r\n") * (size // 78)


def send(mail, size):
    mail.sendmail("orders@shop.example", ["payments@shop.example"], letter(size))


with Smtp(HOST, PORT, timeout=PATIENCE) as mail:
    send(mail, 1000)
with Smtp(HOST, PORT, timeout=PATIENCE) as mail:
    mail.tls()
    send(mail, 1000)
with open(f"{DIR}/letter", "w") as file:
    file.write(letter(5000))
run("curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", f"{DIR}/mail.pem", "--connect-to",
    f"mail.shop.example:25:{HOST}:{PORT}", "--mail-from", "orders@shop.example", "--mail-rcpt", "payments@shop.example",
    "--upload-file", f"{DIR}/letter", "smtp://mail.shop.example:25")
passed("short")

with Smtp(HOST, PORT, timeout=PATIENCE) as mail:
    mail.tls()
    time.sleep(QUIET)
    expect(mail.noop()[0], 250, "NOOP after the pause")
passed("quiet")

with Smtp(HOST, PORT, timeout=PATIENCE) as mail:
    mail.tls()
    for _ in range(4):
        send(mail, 8 * 1024 * 1024)
passed("long")
