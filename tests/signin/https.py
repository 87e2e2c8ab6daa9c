"""A host over HTTPS under two names, which a browser takes for two sites."""

from __future__ import annotations

import datetime
import ipaddress
import ssl

from django.http import HttpResponse
from django.test.testcases import LiveServerThread
from django.urls import path
from django.utils.html import format_html, format_html_join

from tardis_imagetrove.signin import root_urls


def certificate(folder):
    """Path of a self-signed certificate with its key, for 127.0.0.1 and localhost."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


class HttpsServer(LiveServerThread):
    """Django's live server behind TLS."""

    def __init__(self, folder):
        from django.contrib.staticfiles.handlers import StaticFilesHandler

        super().__init__("localhost", StaticFilesHandler)
        self.folder = folder

    def _create_server(self, *args, **kwargs):
        server = super()._create_server(*args, **kwargs)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(self.folder))
        # The handshake happens in the thread of the connection, so that one client cannot hold up the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.base_environ["HTTPS"] = "on"
        return server


class WritesTheSession:
    """What MyTARDIS 5.0's middleware does on every request; 4.7 and the embedded host do not."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        request.session["allowed_tokens"] = [None]
        return self.get_response(request)


def other_site(request):
    """A page of somebody else's, which sends a form: ?to=ADDRESS&field=value."""
    fields = request.GET.dict()
    to = fields.pop("to")
    inputs = format_html_join("", '<input type="hidden" name="{}" value="{}">', fields.items())
    return HttpResponse(
        format_html('<form method="post" action="{}">{}<button>Send</button></form>', to, inputs)
    )


urlpatterns = [path("other-site/", other_site), *root_urls.urlpatterns]
handler400 = root_urls.handler400
handler403 = root_urls.handler403
handler404 = root_urls.handler404
handler500 = root_urls.handler500
