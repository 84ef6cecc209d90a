"""What may stand where a host name is wanted: it reaches `ssh`, `srun` and rendezvous addresses. Resolves nothing."""

import ipaddress
import re

from data_pipeline.config import ConfigError

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")  # RFC 1123, and the underscore of some sites
_ALLOWED = re.compile(r"[A-Za-z0-9._-]*")
# What the system's resolver takes for an IPv4 address, in decimal or hexadecimal, whole or shortened.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_MAX_LENGTH = 253  # RFC 1035: the longest name that DNS can carry
_MAX_SHOWN = 80


def check_host_name(name: str) -> str:
    """Return the name as it is used: an IPv6 address without brackets and in its shortest form, others unchanged.

    Raises ConfigError for anything that is not a plain host name or address; what it shows of the name holds no
    control character.
    """
    reason = _reason(name)
    if reason:
        raise ConfigError(f"host name {_shown(name)} {reason}")
    return str(ipaddress.IPv6Address(name.strip("[]"))) if ":" in name else name


def same_host(name: str) -> str:
    """Return a form that is equal for two spellings of one checked name: DNS knows no upper case."""
    return name.lower()


def _reason(name: str) -> str | None:
    if not name:
        return "is empty: give a name or an address"
    if name.startswith("-"):
        return "begins with a dash, which programs take for an option: give a plain name"
    if ":" in name or name.startswith("["):
        return _address_reason(name)
    if not _ALLOWED.fullmatch(name):
        return _character_reason(name)
    return _name_reason(name)


def _name_reason(name: str) -> str | None:
    """Say what is wrong with a name, or an IPv4 address, of allowed characters alone."""
    if len(name) > _MAX_LENGTH:
        return f"has {len(name)} characters, at most {_MAX_LENGTH} can be looked up"
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return None if _is_ipv4(name) else "ends like an IPv4 address but is none: give four numbers from 0 to 255"
    if not all(_LABEL.fullmatch(label) for label in labels):
        return "has a part that is empty, over 63 characters, or begins or ends with a dash"
    return None


def _address_reason(name: str) -> str | None:
    """Say what is wrong with what has a colon or a bracket, and so can only be an IPv6 address."""
    is_bracketed = name.startswith("[") and name.endswith("]")
    inner = name[1:-1] if is_bracketed else name
    if "%" in inner:
        return "is an IPv6 address with a scope, which means something on one machine alone: give a global address"
    try:
        ipaddress.IPv6Address(inner)
    except ValueError:
        return "is no IPv6 address: leave out a port, or give ssh's port and user in the file of cluster.ssh_config"
    return None


def _character_reason(name: str) -> str:
    if "@" in name:
        return "names a user: set `User` in the file of cluster.ssh_config"
    bad = next(character for character in name if not _ALLOWED.fullmatch(character))
    return f"has the character {bad!a}: letters, digits, dots, dashes and underscores alone are allowed"


def _is_ipv4(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def _shown(name: str) -> str:
    return ascii(name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}...")
