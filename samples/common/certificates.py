"""TLS from files in PEM: a server's own certificate, and whom a client trusts.

OpenSSL says neither which file it could not read nor, in words for people, what is wrong with one. So a file is looked
at first, and whatever cannot be used is refused with the option that named it.
"""

from __future__ import annotations

import argparse
import errno
import os
import ssl

from samples.common.arguments import Parser
from samples.common.words import reason


def server_context(made: Parser, args: argparse.Namespace) -> ssl.SSLContext:
    """What `--tls-cert` and `--tls-key` name."""
    if args.tls_cert is None:
        made.error("--tls-key needs --tls-cert")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    given = {"--tls-cert": args.tls_cert} | ({} if args.tls_key is None else {"--tls-key": args.tls_key})
    for option, path in given.items():
        _check_readable(made, option, path)
    files = " ".join(f"{option} {path}" for option, path in given.items())
    try:
        context.load_cert_chain(args.tls_cert, args.tls_key, password=_no_password)
    except ssl.SSLError as exc:
        made.refuse(f"{files}: not a certificate chain and its private key in PEM{_openssls_word(exc)}")
    except (OSError, ValueError) as exc:
        made.refuse(f"{files}: {reason(exc)}")
    return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted, and nobody is asked for its password")


def trusting(made: Parser, option: str, path: str | None) -> ssl.SSLContext:
    """A client's, which always checks the certificate: by the authorities in that file, or (None) the machine's."""
    if path is not None:
        _check_readable(made, option, path)
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError as exc:
        made.refuse(f"{option} {path}: not certificates in PEM{_openssls_word(exc)}")
    except OSError as exc:
        made.refuse(f"{option} {path}: {reason(exc)}")


def _check_readable(made: Parser, option: str, path: str) -> None:
    """Not opened, for it may be a pipe, which is read once."""
    try:
        os.stat(path)
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as exc:
        made.refuse(f"{option} {path}: {reason(exc)}")


def _openssls_word(exc: ssl.SSLError) -> str:
    return f" ({exc.reason.replace('_', ' ').lower()})" if exc.reason else ""
