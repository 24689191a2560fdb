"""Authorities and certificates for tests, made by openssl as everybody does."""

import subprocess
from pathlib import Path


def certify(directory: Path, name: str, *arguments: str) -> tuple[Path, Path]:
    """Make a key and a certificate, self-signed unless arguments of `openssl req` say otherwise; gives both files."""
    directory.mkdir(exist_ok=True)
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-subj", f"/CN={name}", "-days", "30", "-keyout", str(key), "-out", str(certificate), *arguments]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def certify_localhost(directory: Path) -> tuple[Path, Path, Path]:
    """Make an authority, and a certificate for 127.0.0.1 by it; gives both certificates, and the key of the second."""
    authority, signing = certify(directory / "authority", "authority")
    extensions = ("subjectAltName=IP:127.0.0.1", "basicConstraints=critical,CA:FALSE")
    by = ["-CA", str(authority), "-CAkey", str(signing), *(word for each in extensions for word in ("-addext", each))]
    return authority, *certify(directory / "server", "localhost", *by)
