"""What a browser is told with every answer, so that the page can do what it needs and nothing else.

Knows the headers. Does not know routes or files. The page has no inline code and loads nothing from elsewhere. It talks to this server and,
where its user names an address of a language model, to that: the browser asks it, never the server on somebody's behalf.
"""

from __future__ import annotations

from collections.abc import Sequence


def headers(connects_to: Sequence[str]) -> dict[str, str]:
    """`connects_to`: what the page may connect to besides this server, as sources of a Content-Security-Policy."""
    policy = {
        "default-src": ["'self'"],
        # WebAssembly: libopus, for browsers that cannot decode Opus themselves.
        "script-src": ["'self'", "'wasm-unsafe-eval'"],
        "connect-src": ["'self'", *connects_to],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
        "frame-ancestors": ["'none'"],
        "object-src": ["'none'"],
    }
    return {
        "Content-Security-Policy": "; ".join(" ".join([name, *sources]) for name, sources in policy.items()),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
        "Cache-Control": "no-cache",
    }
