"""A CA of one run, and certificates for 127.0.0.1 and localhost."""

import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """Writes its certificate as `ca`, and one for a server as `certificate` and `key`, into `folder`."""

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.ca, self.certificate, self.key = (
            folder / file for file in ("ca.pem", "server.pem", "server.key")
        )
        ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        issuer = name("CA of a test")
        is_ca = x509.BasicConstraints(ca=True, path_length=None)
        ca = self.build(issuer, issuer, ca_key, ca_key, is_ca)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        server = self.build(
            name("server of a test"), issuer, key, ca_key, x509.SubjectAlternativeName(names)
        )
        self.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        self.certificate.write_bytes(server.public_bytes(serialization.Encoding.PEM))
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self.key.write_bytes(pem)

    @staticmethod
    def build(subject, issuer, key, issuer_key, extension):
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        is_ca = isinstance(extension, x509.BasicConstraints)
        builder = builder.add_extension(extension, critical=is_ca)
        return builder.sign(issuer_key, hashes.SHA256())
