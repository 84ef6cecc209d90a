"""Which network interface of this machine leads to another one. Sends nothing: a UDP `connect` only picks a route."""

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface
_DISCARD_PORT = 9


def address_towards(host: str) -> str:
    """Return the address of this machine that `host` sees. Raises OSError where the name or the route is unknown."""
    family, kind, protocol, _, target = socket.getaddrinfo(host, _DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0]).partition("%")[0]


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has `address`, for example for NCCL_SOCKET_IFNAME; None if none has."""
    wanted = ipaddress.ip_address(address)
    if isinstance(wanted, ipaddress.IPv6Address):
        return _ipv6_interface(wanted, Path("/proc/net/if_inet6"))
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in names if _ipv4_address(name) == address), None)


def _ipv4_address(interface: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None  # without an IPv4 address
    return socket.inet_ntoa(answer[20:24])


def _ipv6_interface(wanted: ipaddress.IPv6Address, table: Path) -> str | None:
    try:
        lines = table.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((line.split()[-1] for line in lines if int(line.split()[0], 16) == int(wanted)), None)
