"""Countries with a calendar of public holidays."""

from __future__ import annotations


class UnknownCountry(ValueError):
    """No holiday calendar exists for a country code; the message names the code and what is accepted."""


def check_country(code: str) -> str:
    """Return the code if a holiday calendar exists for it.

    Raises
    ------
    UnknownCountry
        If none exists.

    >>> check_country("DE-BY")
    'DE-BY'
    """
    import holidays

    country, _, part = code.partition("-")
    parts = holidays.list_supported_countries().get(country)
    if parts is None:
        raise UnknownCountry(
            f"no holiday calendar for {code!r}. Write an ISO 3166-1 code in capitals, such as CZ or US"
        )
    if part and part not in parts:
        known = f"its parts are {', '.join(parts)}" if parts else "it has no parts"
        raise UnknownCountry(f"no holiday calendar for {code!r}: {country} is known, {known}. Write {country} alone")
    return code
