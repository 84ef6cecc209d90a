"""Whether a TCP port can be taken. Holds none: another process may be faster."""

import errno
import socket


def port_is_free(port: int) -> bool:
    """Whether a server could listen on `port` of every interface, as the rendezvous does."""
    family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT counts as free
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # IPv4 listeners count as well
            server.bind(("", port))
            server.listen(1)
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:  # IPv6 is switched off in the kernel
            return _ipv4_port_is_free(port)
        return False
    return True


def _ipv4_port_is_free(port: int) -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("", port))
            server.listen(1)
    except OSError:
        return False
    return True
