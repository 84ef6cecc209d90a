import pytest

from cluster.host_names import check_host_name
from data_pipeline.config import ConfigError

HOSTILE = [
    "-oProxyCommand=touch canary",
    "-",
    "--help",
    "a;b",
    "a b",
    "a\tb",
    "a\n",
    "\na",
    "a\r",
    "a\0b",
    "$(touch canary)",
    "`touch canary`",
    "${HOME}",
    "a|b",
    "a&b",
    "a>b",
    "a'b",
    'a"b',
    "a\\b",
    "a/../b",
    "a*",
    "~",
    "#a",
    "root@node",
    "node:22",
    "a,b",
    "nöde",
    "node\u2028b",
    "node\u200b",
    "１２７.0.0.1",
    "\x1b[31mnode",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_what_is_no_plain_name_is_refused_and_shown_without_control_characters(name):
    with pytest.raises(ConfigError) as raised:
        check_host_name(name)
    assert str(raised.value).isprintable() and str(raised.value).isascii()
    assert ascii(name) in str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "a..b", ".a", "a.", "a-", "-a", "a.-b", "a" * 64, ".".join(["a" * 63] * 4 + ["b"])),
        *("256.1.1.1", "1.2.3", "1.2.3.4.5", "127.1", "2130706433", "0x7f000001", "01.2.3.4", "node.0x1", "1"),
        *(":", ":::", "[::1", "::1]", "[[::1]]", "[]", "[node]", "[10.0.0.1]", "12345::", "::1::", "fe80::1%eth0"),
        *("[fe80::1%eth0]", "fe80::1%$(touch canary)", "[::1]:22", "::ffff:1.2.3.400"),
    ],
)
def test_what_is_nearly_a_name_or_an_address_is_refused(name):
    with pytest.raises(ConfigError):
        check_host_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("node1", "NODE1", "node_1", "_node", "1node", "gpu-0-17.rack3.example.org", "a", "a" * 63, "xn--nde-sna"),
        *("10.77.0.1", "255.255.255.255", "127.0.0.1", "::1", "2001:db8::17", "1.2.3.4.example"),
    ],
)
def test_names_and_addresses_are_used_as_they_are(name):
    assert check_host_name(name) == name


def test_an_ipv6_address_loses_its_brackets_and_what_may_be_left_out():
    assert check_host_name("[::1]") == "::1"
    assert check_host_name("2001:0DB8:0000::0017") == "2001:db8::17"


def test_a_very_long_name_is_not_repeated_at_its_length():
    with pytest.raises(ConfigError) as raised:
        check_host_name("a;" * 100_000)
    assert len(str(raised.value)) < 300
