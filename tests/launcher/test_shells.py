"""Commands that reach a host: what a shell or ssh makes of them is what was meant, whatever the values hold."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.shells import local_command, quoted, srun_command, ssh_command

HOSTILE = ["a b", "a'b", 'a"b', "$(touch canary)", "`touch canary`", ";touch canary", "a\nb", "*", "", "~", "\\", "-n"]
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=30, deadline=None)
@given(st.lists(words, min_size=1, max_size=5))
def test_a_shell_reads_the_quoted_line_as_the_same_arguments(arguments):
    line = quoted(["printf", "%s\\0", *arguments])
    answer = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert answer.stdout.decode().split("\0")[:-1] == arguments


@pytest.mark.parametrize("value", HOSTILE)
def test_nothing_that_a_value_holds_is_executed_by_the_far_shell(value, tmp_path):
    *_, remote = ssh_command("node1", ["printf", "%s", value], None, 5)
    answer = subprocess.run(["sh", "-c", remote], capture_output=True, check=True, cwd=tmp_path)
    assert answer.stdout.decode() == value
    assert not (tmp_path / "canary").exists()


def test_ssh_takes_a_host_for_a_host_even_if_it_looks_like_an_option(tmp_path):
    canary = tmp_path / "canary"
    command = ssh_command(f"-oProxyCommand=touch {canary}", ["true"], None, 1)
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert answer.returncode == 255
    assert not canary.exists()


def test_ssh_understands_every_option_and_keeps_the_users_own_host_key_setting(tmp_path):
    config = tmp_path / "config"
    config.write_text("Host node1\n  StrictHostKeyChecking accept-new\n  RemoteCommand true\n  LocalForward 4444 a:1\n")
    command = list(ssh_command("node1", ["true"], config, 7.2))
    answer = subprocess.run([command[0], "-G", *command[1:]], capture_output=True, text=True, check=True)
    seen = answer.stdout.splitlines()
    for line in (
        "batchmode yes",
        "connecttimeout 8",
        "serveraliveinterval 5",
        "serveralivecountmax 3",
        "controlmaster false",
        "clearallforwardings yes",
        "permitlocalcommand no",
        "requesttty false",
        "stricthostkeychecking accept-new",
    ):
        assert line in seen
    assert not [line for line in seen if line.startswith(("remotecommand", "localforward"))]


def test_srun_starts_one_task_on_each_named_host():
    command = srun_command(["n1", "n2", "n3"], ["python", "-m", "cluster.probe"])
    assert {"--nodelist=n1,n2,n3", "--nodes=3", "--ntasks=3", "--ntasks-per-node=1", "--overlap"} <= set(command)
    assert command[-3:] == ("python", "-m", "cluster.probe")


def test_a_local_command_is_the_argument_list_itself():
    assert local_command(["python", "-c", "1 ; 2"]) == ("python", "-c", "1 ; 2")
