"""The gateway's TLS: its certificate, its key, its clients' authority, and the oldest version."""

import ssl


def server_context(
    certificate: str, key: str, min_version: str, client_ca: str = ""
) -> ssl.SSLContext:
    """certificate: PEM, with the chain. key: PEM; empty: in the certificate's file.

    client_ca: PEM, of the authorities of clients' certificates; empty: clients are not asked. With
    one, a certificate that none of them has signed ends the handshake, and what a client without
    one may see is up to gateway.client_certificate.

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
    if client_ca:
        _ask_clients(context, client_ca)
    return context


def asks_clients(context: ssl.SSLContext | None) -> bool:
    return context is not None and context.verify_mode is not ssl.CERT_NONE


def _ask_clients(context: ssl.SSLContext, client_ca: str) -> None:
    context.verify_mode = ssl.CERT_OPTIONAL
    try:
        context.load_verify_locations(client_ca)
    except OSError as error:
        raise OSError(f"tls_client_ca {client_ca}: {error.strerror or error}") from error
    if not context.cert_store_stats()["x509_ca"]:
        raise OSError(f"tls_client_ca {client_ca}: no authority's certificate is in it")


_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
