"""Host names of the ``Host`` header, the ``Origin`` header and the settings, in a form that can be compared."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_NAME_AND_PORT = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True)
class Address:
    """A host name or IP address in lower case, IPv6 without brackets, and the port if one is given."""

    name: str
    port: int | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether the name always means this machine."""
        try:
            return ipaddress.ip_address(self.name).is_loopback
        except ValueError:
            return self.name == "localhost"

    @property
    def is_any(self) -> bool:
        """Whether a server that listens there is reachable at every address of its machine."""
        return self.name in ("0.0.0.0", "::")

    @property
    def in_url(self) -> str:
        """The name as part of a URL, without the port.

        >>> Address("::1").in_url
        '[::1]'
        """
        return f"[{self.name}]" if ":" in self.name else self.name


def parse(text: str) -> Address | None:
    """The address in a text; None if the text is anything else, such as a URL or a pattern.

    >>> parse("Pages.Example.com.:8443")
    Address(name='pages.example.com', port=8443)
    >>> parse("[0:0::1]:3000")
    Address(name='::1', port=3000)
    >>> parse("https://pages.example.com") is None
    True
    """
    text = text.strip().lower()
    try:
        return Address(ipaddress.ip_address(text).compressed)  # IPv6 without brackets, as a listening address
    except ValueError:
        match = _NAME_AND_PORT.fullmatch(text)
    if match is None:
        return None
    name, port = match["name"], int(match["port"]) if match["port"] else None
    if name.startswith("["):
        try:
            name = ipaddress.ip_address(name[1:-1]).compressed
        except ValueError:
            return None
    return Address(name, port)
