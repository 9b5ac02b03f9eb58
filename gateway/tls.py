"""The gateway's TLS: its certificate, its key, and the oldest version that it speaks."""

import ssl


def server_context(certificate: str, key: str, min_version: str) -> ssl.SSLContext:
    """certificate: PEM, with the chain. key: PEM; empty: in the certificate's file.

    Raises ValueError naming the setting, or OSError with the reason, for what cannot be used.
    """
    if min_version not in _VERSIONS:
        raise ValueError(f"tls_min_version must be 1.2 or 1.3, is {min_version!r}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[min_version]
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key or None)
    except OSError as error:
        raise OSError(f"tls_certificate {certificate}: {error.strerror or error}") from error
    return context


_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
