"""Which network interface of this machine leads to another one. Sends nothing: a UDP `connect` only picks a route."""

import array
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_SIOCGIFCONF = 0x8912  # linux/sockios.h: all IPv4 addresses, also further ones of an interface
_REQUEST_BYTES = 40  # sizeof(struct ifreq) on 64-bit Linux: 16 of the name, then a sockaddr with the address at 4
_MOST_ADDRESSES = 1024
_DISCARD_PORT = 9


def address_towards(host: str) -> str:
    """Return the address of this machine that `host` sees. Raises OSError where the name or the route is unknown."""
    family, kind, protocol, _, target = socket.getaddrinfo(host, _DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0]).partition("%")[0]


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has `address`, for example for NCCL_SOCKET_IFNAME; None if none has."""
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError:
        return None  # sshd says UNKNOWN of a connection without addresses
    if isinstance(wanted, ipaddress.IPv6Address):
        return _ipv6_interface(wanted, Path("/proc/net/if_inet6"))
    return next((name for name, found in _ipv4_addresses() if found == address), None)


def _ipv4_addresses() -> Iterator[tuple[str, str]]:
    """Yield interface and address of each; one that has a label of its own (`eth0:1`) counts for its interface."""
    requests = array.array("B", bytes(_REQUEST_BYTES * _MOST_ADDRESSES))
    place, size = requests.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket.fileno(), _SIOCGIFCONF, struct.pack("iP", size, place))
    filled = requests.tobytes()[: struct.unpack("iP", answer)[0]]
    for start in range(0, len(filled), _REQUEST_BYTES):
        label = filled[start : start + 16].split(b"\0")[0].decode(errors="replace")
        yield label.partition(":")[0], socket.inet_ntoa(filled[start + 20 : start + 24])


def _ipv6_interface(wanted: ipaddress.IPv6Address, table: Path) -> str | None:
    try:
        lines = table.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((line.split()[-1] for line in lines if int(line.split()[0], 16) == int(wanted)), None)
